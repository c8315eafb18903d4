//! TLS over a non-blocking socket, as a stream of plain bytes that the rest need not tell from any other.
//!
//! To the client any certificate will do: what is measured is the server, and a benchmark has nobody to impersonate.
//! The rest of a handshake is checked as always, signatures included.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    version, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error,
    ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

pub type Version = &'static SupportedProtocolVersion;

/// What is measured.
pub const NEWEST: Version = &version::TLS13;

/// A version by its number, as it stands on a command line.
pub fn version(number: &str) -> Option<Version> {
    match number {
        "1.2" => Some(&version::TLS12),
        "1.3" => Some(&version::TLS13),
        _ => None,
    }
}

/// On the wire, rounded up.
const LARGEST_RECORD: usize = 20 * 1024;

pub struct TlsStream {
    pub session: Connection,
    socket: TcpStream,
    peer_said_goodbye: bool,
}

impl TlsStream {
    /// The client's side. Sends the first message of the handshake; reading does the rest of it.
    pub fn connect(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a valid name");
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = Self::new(socket, session.into());
        stream.flush()?;
        Ok(stream)
    }

    /// The server's side. Reading does the handshake.
    pub fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self::new(socket, session.into()))
    }

    fn new(socket: TcpStream, mut session: Connection) -> Self {
        // A message is encrypted whole: whatever the socket has no room for waits as ciphertext, see `write`.
        session.set_buffer_limit(None);
        Self { session, socket, peer_said_goodbye: false }
    }

    /// Whether close_notify came; what `read` returns then waits for the end of the socket.
    pub fn peer_said_goodbye(&self) -> bool {
        self.peer_said_goodbye
    }

    fn flush_if_possible(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

impl Read for TlsStream {
    /// Would block, too, when only a part of a record or of the handshake came.
    ///
    /// One call of `recv`, and no plain byte stays behind in the session, of which the poller knows nothing: the
    /// ciphertext goes to the end of `buffer`, and what it decrypts to is shorter. With the record that an earlier
    /// call got the beginning of, it so fits into the rest.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (plain, wire) = buffer.split_at_mut((buffer.len() + LARGEST_RECORD) / 2);
        let count = self.socket.read(wire)?;
        if count == 0 && !self.peer_said_goodbye {
            return Err(io::Error::other("the connection was closed without close_notify"));
        }
        if count == 0 {
            return Ok(0);
        }
        let mut unread = &wire[..count];
        let mut filled = 0;
        while !unread.is_empty() {
            self.session.read_tls(&mut unread)?;
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            self.peer_said_goodbye = state.peer_has_closed();
            let end = filled + state.plaintext_bytes_to_read();
            self.session.reader().read_exact(&mut plain[filled..end])?;
            filled = end;
        }
        // The end of the handshake or the answer to a change of keys. Behind a message that waits for room it waits, too.
        self.flush_if_possible()?;
        if filled == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(filled)
    }
}

impl Write for TlsStream {
    /// Takes all of `plain`, or nothing while ciphertext waits for room in the socket: until then call `flush`.
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.flush()?;
        self.session.writer().write_all(plain)?;
        self.flush_if_possible()?;
        Ok(plain.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl AsRawFd for TlsStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// For one client at a time: with `resume`, its next connection takes a ticket that its last one was given.
pub fn client_config(resume: bool, version: Version) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .expect("ring has both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption =
        if resume { Resumption::in_memory_sessions(1) } else { Resumption::disabled() };
    Arc::new(config)
}

/// With the certificate and the key in `pem`, and tickets that need no memory on the server, as OpenSSL gives them.
pub fn server_config(
    pem: &[u8],
    version: Version,
) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let certificate = CertificateDer::from_pem_slice(pem)?;
    let key = PrivateKeyDer::from_pem_slice(pem)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
