//! As much of WebSocket (RFC 6455) as a client needs that knows beforehand what it sends and what comes back.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A client has to mask what it sends. That this is no secret changes nothing for the server.
pub const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

const UPGRADE: &str = "GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// The RFC's example, so that nobody has to compute it.
const ACCEPTANCE: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

/// The opening handshake, over a socket that blocks.
pub fn open(socket: &mut TcpStream) -> io::Result<()> {
    socket.write_all(UPGRADE.as_bytes())?;
    // One byte at a time, since the end is known by what came; a server sends nothing of its own behind it.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    if !head.starts_with("http/1.1 101 ") || !head.lines().any(|line| line == ACCEPTANCE) {
        return Err(io::Error::other(format!("the server did not accept WebSocket: {head:?}")));
    }
    Ok(())
}

/// A whole binary message.
pub fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    const FINAL_BINARY: u8 = 0x82;
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![FINAL_BINARY];
    match payload.len() {
        length @ ..126 => frame.push(masked | length as u8),
        length @ ..0x1_0000 => {
            frame.push(masked | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn frames_are_those_of_the_rfc() {
        // Section 5.7, where "Hello" is a text; a binary message's first byte is one more.
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(b"Hello", None), [0x82, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(frame(b"Hello", Some(mask)), masked);
        assert_eq!(frame(&[0; 256], None)[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(frame(&[0; 65536], None)[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
