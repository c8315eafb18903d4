//! From several addresses to one connection, as asyncio's `create_connection` does it.

use std::{io, net::SocketAddr, time::Duration};

use super::staggered::staggered_race;

/// How a connection is made to a name that has several addresses: asyncio's keywords of `create_connection`.
///
/// ```
/// use std::time::Duration;
/// use velodrome::ConnectOptions;
///
/// // One address after the other, in the order of the resolver.
/// let plain = ConnectOptions::default();
/// assert_eq!(plain.happy_eyeballs_delay, None);
/// // As RFC 8305 recommends: IPv6 and IPv4 in turns, the next one if there is no answer for 250 ms.
/// let happy = ConnectOptions { happy_eyeballs_delay: Some(Duration::from_millis(250)), ..plain };
/// assert_eq!(happy.interleave, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long an address may not answer before the next one is tried beside it. `None`: each is tried when the
    /// one before has failed.
    pub happy_eyeballs_delay: Option<Duration>,
    /// How many addresses of the first family come before those of IPv6 and IPv4 take turns. 0 leaves the order as
    /// it is; `None` is 1 with [`happy_eyeballs_delay`](Self::happy_eyeballs_delay), and 0 without.
    pub interleave: Option<usize>,
}

/// The first connection of `addresses`, or what became of all.
pub async fn connect_to_one<F: Future<Output = io::Result<R>>, R>(
    mut addresses: Vec<SocketAddr>,
    options: ConnectOptions,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<R> {
    let with_delay = usize::from(options.happy_eyeballs_delay.is_some());
    let first_family_count = options.interleave.unwrap_or(with_delay);
    if first_family_count > 0 {
        addresses = interleaved(addresses, first_family_count);
    }
    if let Some(delay) = options.happy_eyeballs_delay {
        return staggered_race(addresses, delay, connect).await.map_err(all_in_one);
    }
    let mut errors = Vec::new();
    for address in addresses {
        match connect(address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => errors.push(error),
        }
    }
    Err(all_in_one(errors))
}

/// The families take turns, after `first_family_count - 1` addresses of the first one.
fn interleaved(addresses: Vec<SocketAddr>, first_family_count: usize) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return addresses };
    let is_first_v6 = first.is_ipv6();
    let (mut first, mut other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first_v6);
    let mut ordered: Vec<_> = first.drain(..(first_family_count - 1).min(first.len())).collect();
    let (mut first, mut other) = (first.into_iter(), other.drain(..));
    loop {
        let turn = [first.next(), other.next()];
        if turn == [None, None] {
            return ordered;
        }
        ordered.extend(turn.into_iter().flatten());
    }
}

/// The error, if all have the same text; else one that has all texts.
fn all_in_one(mut errors: Vec<io::Error>) -> io::Error {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    if texts.iter().all(|text| *text == texts[0]) {
        return errors.swap_remove(0);
    }
    io::Error::other(format!("Multiple exceptions: {}", texts.join(", ")))
}

#[cfg(test)]
mod tests {
    use rustix::net::{getsockname, listen};

    use super::*;
    use crate::{
        TcpListener, TcpStream,
        client::{self, Progress},
        net::bind_at,
        run,
    };

    #[test]
    fn an_address_that_does_not_answer_does_not_keep_the_next_one() {
        let full = bind_at("127.0.0.1:0".parse().unwrap(), false).unwrap();
        listen(&full, 0).unwrap();
        let silent = getsockname(&full).unwrap();
        // As many as may wait to be accepted: the next one gets no answer.
        let mut waiting = Vec::new();
        loop {
            let (fd, progress) = client::connect(&silent).unwrap();
            waiting.push(fd);
            if matches!(progress, Progress::UnderWay) {
                break;
            }
        }
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let answering = listener.local_addr().unwrap();
            let addresses = vec![silent.try_into().unwrap(), answering];
            let delay = Some(Duration::from_millis(1));
            let options = ConnectOptions { happy_eyeballs_delay: delay, interleave: None };
            let connection = connect_to_one(addresses, options, TcpStream::connect).await.unwrap();
            assert_eq!(connection.peer_addr().unwrap(), answering);
        })
        .unwrap();
    }

    fn addresses(text: &str) -> Vec<SocketAddr> {
        let one = |name: &str| match name.strip_prefix('s') {
            Some(port) => format!("[::1]:{port}").parse().unwrap(),
            None => format!("127.0.0.1:{}", &name[1..]).parse().unwrap(),
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn families_take_turns_after_the_first_addresses_of_one() {
        // What asyncio's `_interleave_addrinfos` makes of them: s is IPv6, f is IPv4.
        for (given, count, expected) in [
            ("s1 s2 s3 f1 f2", 1, "s1 f1 s2 f2 s3"),
            ("s1 s2 s3 f1 f2", 2, "s1 s2 f1 s3 f2"),
            ("s1 s2 s3 f1 f2", 9, "s1 s2 s3 f1 f2"),
            ("f1 s1 s2 s3", 1, "f1 s1 s2 s3"),
            ("f1 f2 f3 s1", 3, "f1 f2 f3 s1"),
            ("f1 f2", 1, "f1 f2"),
            ("", 1, ""),
        ] {
            assert_eq!(interleaved(addresses(given), count), addresses(expected), "{given}");
        }
    }

    #[test]
    fn errors_of_one_text_are_one_and_others_are_told_together() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let timed_out = io::Error::from(io::ErrorKind::TimedOut);
        assert_eq!(all_in_one(vec![refused(), refused()]).kind(), io::ErrorKind::ConnectionRefused);
        let told = all_in_one(vec![refused(), timed_out]).to_string();
        assert_eq!(told, "Multiple exceptions: connection refused, timed out");
    }
}
