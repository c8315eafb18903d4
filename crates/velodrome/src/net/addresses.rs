//! From a host and a port to addresses.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    panic::resume_unwind,
};

use crate::driver;

/// What a socket can be bound or connected to: an address, or a host's name and a port.
///
/// ```
/// use std::net::SocketAddr;
/// use velodrome::net::ToAddresses;
///
/// let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
/// assert_eq!("127.0.0.1:80".known(), Some(address));
/// assert_eq!(("127.0.0.1", 80).known(), Some(address));
/// // That takes a resolver.
/// assert_eq!(("localhost", 80).known(), None);
/// assert_eq!(("localhost", 80).name(), "localhost:80");
/// ```
pub trait ToAddresses {
    /// The address, if there is nothing to look up.
    fn known(&self) -> Option<SocketAddr>;
    /// What to look up, in the form `host:port`.
    fn name(&self) -> String;
}

impl ToAddresses for SocketAddr {
    fn known(&self) -> Option<SocketAddr> {
        Some(*self)
    }

    fn name(&self) -> String {
        self.to_string()
    }
}

impl ToAddresses for &str {
    fn known(&self) -> Option<SocketAddr> {
        self.parse().ok()
    }

    fn name(&self) -> String {
        (*self).to_owned()
    }
}

impl ToAddresses for String {
    fn known(&self) -> Option<SocketAddr> {
        self.as_str().known()
    }

    fn name(&self) -> String {
        self.clone()
    }
}

impl ToAddresses for (&str, u16) {
    fn known(&self) -> Option<SocketAddr> {
        let ip = self.0.parse().ok()?;
        Some(SocketAddr::new(ip, self.1))
    }

    fn name(&self) -> String {
        format!("{}:{}", self.0, self.1)
    }
}

/// The addresses, in the resolver's order. Names are looked up in a thread of the loop's pool.
///
/// ```
/// # velodrome::run(async {
/// let addresses = velodrome::net::resolve("localhost:80").await?;
/// assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
/// # std::io::Result::Ok(())
/// # }).unwrap().unwrap();
/// ```
pub async fn resolve(to: impl ToAddresses) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = to.known() {
        return Ok(vec![address]);
    }
    let name = to.name();
    let look_up = move || name.to_socket_addrs().map(Iterator::collect);
    let found: Vec<_> = match driver::polling().executor().run_blocking(look_up).await {
        Ok(found) => found?,
        Err(panic) => resume_unwind(panic),
    };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "getaddrinfo() returned empty list"));
    }
    Ok(found)
}

/// The result for the first address for which there is one, or the last error.
pub(super) async fn first_that_works<R>(
    to: impl ToAddresses,
    mut attempt: impl AsyncFnMut(SocketAddr) -> io::Result<R>,
) -> io::Result<R> {
    let mut failed = None;
    for address in resolve(to).await? {
        match attempt(address).await {
            Ok(result) => return Ok(result),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.expect("`resolve` returns at least one address"))
}
