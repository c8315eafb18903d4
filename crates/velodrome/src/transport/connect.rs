//! `create_connection` and `create_server`.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{FileType, stat, unlink},
    net::{SocketType, bind, connect},
};

use super::{
    DatagramTransport, Server, Transport,
    base::Based,
    connection::{AnyProtocol, Connection},
    datagram::Endpoint,
    server::{ServerOptions, Serving},
};
use crate::{
    ConnectOptions, Errno, Error, EventLoop, TcpStream, UnixStream, driver,
    net::{ToAddresses, bind_at, bind_at_path, resolve, set_nodelay, socket_of},
    protocol::{DatagramProtocol, Protocol},
};

/// A transport, and the protocol that it has.
type Connected<P> = (Transport, Rc<RefCell<P>>);

impl EventLoop {
    /// Connects to the first address of `to` that answers, and has `factory` make a protocol for the
    /// connection. Done when `connection_made` was called. Nagle's algorithm is off.
    ///
    /// It is for this loop to poll it. Dropped before it is done, it leaves no connection.
    pub async fn create_connection<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        to: impl ToAddresses,
    ) -> io::Result<Connected<P>> {
        self.create_connection_with(factory, to, ConnectOptions::default()).await
    }

    /// As [`EventLoop::create_connection`], in the way that `options` say.
    ///
    /// ```
    /// use std::time::Duration;
    /// use velodrome::{ConnectOptions, Protocol, TcpListener};
    ///
    /// struct Nothing;
    /// impl Protocol for Nothing {}
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let to = ("localhost", listener.local_addr()?.port());
    ///     let happy_eyeballs_delay = Some(Duration::from_millis(250));
    ///     let options = ConnectOptions { happy_eyeballs_delay, ..ConnectOptions::default() };
    ///     let (transport, _) =
    ///         event_loop.create_connection_with(|| Nothing, to, options).await?;
    ///     assert_eq!(transport.peer_addr(), listener.local_addr().ok());
    ///     std::io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn create_connection_with<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        to: impl ToAddresses,
        options: ConnectOptions,
    ) -> io::Result<Connected<P>> {
        self.check_it_polls()?;
        let socket = TcpStream::connect_with(to, options).await?.into_std();
        self.connected(factory, socket.into()).await
    }

    /// As [`EventLoop::create_connection`], to the Unix socket at `path`.
    pub async fn create_unix_connection<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        path: impl AsRef<Path>,
    ) -> io::Result<Connected<P>> {
        self.check_it_polls()?;
        let socket = UnixStream::connect(path).await?.into_std();
        self.connected(factory, socket.into()).await
    }

    /// As [`EventLoop::create_connection`], over a stream socket that is connected already.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{cell::RefCell, rc::Rc};
    /// use velodrome::{Event, Protocol, TcpListener};
    ///
    /// #[derive(Default)]
    /// struct Collect {
    ///     received: Rc<RefCell<Vec<u8>>>,
    ///     is_over: Rc<Event>,
    /// }
    ///
    /// impl Protocol for Collect {
    ///     fn data_received(&mut self, data: &[u8]) {
    ///         self.received.borrow_mut().extend(data);
    ///     }
    ///
    ///     fn connection_lost(&mut self, _error: Option<std::io::Error>) {
    ///         self.is_over.set();
    ///     }
    /// }
    ///
    /// let event_loop = velodrome::get_running_loop().unwrap();
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let address = listener.local_addr()?;
    /// let (client, _) = event_loop.create_connection(Collect::default, address).await?;
    /// let (accepted, _) = listener.accept().await?;
    /// let (_, protocol) =
    ///     event_loop.connect_accepted_socket(Collect::default, accepted.into_std()).await?;
    /// client.write(b"hello");
    /// client.close();
    /// let is_over = protocol.borrow().is_over.clone();
    /// is_over.wait().await;
    /// assert_eq!(*protocol.borrow().received.borrow(), b"hello");
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn connect_accepted_socket<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        socket: impl Into<OwnedFd>,
    ) -> io::Result<Connected<P>> {
        self.check_it_polls()?;
        let socket = socket.into();
        set_nodelay(socket.as_fd());
        self.connected(factory, socket).await
    }

    async fn connected<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        socket: OwnedFd,
    ) -> io::Result<Connected<P>> {
        let protocol = Rc::new(RefCell::new(factory()));
        let connection = Connection::over(self.inner(), socket, protocol.clone(), None)?;
        wait_until_open(&connection).await;
        Ok((Transport(connection), protocol))
    }

    /// Listens at all addresses of `to`, and has `factory` make a protocol for each connection. Port 0 means
    /// any that is free: [`Server::sockets`] tells. Nagle's algorithm is off.
    ///
    /// When descriptors run out, the loop's exception handler is told once, and the server tries again
    /// after a second. A panic of `factory` is told, too, and ends that connection.
    ///
    /// ```
    /// use std::io;
    /// use velodrome::{Protocol, TcpStream, Transport};
    ///
    /// #[derive(Default)]
    /// struct Echo(Option<Transport>);
    ///
    /// impl Protocol for Echo {
    ///     fn connection_made(&mut self, transport: Transport) {
    ///         self.0 = Some(transport);
    ///     }
    ///
    ///     fn data_received(&mut self, data: &[u8]) {
    ///         self.0.as_ref().expect("the connection was made").write(data);
    ///     }
    /// }
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let server = event_loop.create_server(Echo::default, "127.0.0.1:0").await?;
    ///     let client = TcpStream::connect(server.sockets()[0]).await?;
    ///     client.write_all(b"hello").await?;
    ///     let mut answer = [0; 5];
    ///     client.read_exact(&mut answer).await?;
    ///     assert_eq!(&answer, b"hello");
    ///     drop(client);
    ///     server.close();
    ///     server.wait_closed().await;
    ///     io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn create_server<P: Protocol + 'static>(
        &self,
        factory: impl FnMut() -> P + 'static,
        to: impl ToAddresses,
    ) -> io::Result<Server> {
        self.create_server_with(factory, to, ServerOptions::default()).await
    }

    /// As [`EventLoop::create_server`], in the way that `options` say.
    ///
    /// ```
    /// use velodrome::{Protocol, ServerOptions, TcpStream};
    ///
    /// struct Nothing;
    /// impl Protocol for Nothing {}
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
    ///     let server = event_loop.create_server_with(|| Nothing, "127.0.0.1:0", options).await?;
    ///     let address = server.sockets()[0];
    ///     assert!(!server.is_serving() && TcpStream::connect(address).await.is_err());
    ///     server.start_serving().await?;
    ///     assert!(server.is_serving() && TcpStream::connect(address).await.is_ok());
    ///     std::io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn create_server_with<P: Protocol + 'static>(
        &self,
        factory: impl FnMut() -> P + 'static,
        to: impl ToAddresses,
        options: ServerOptions,
    ) -> io::Result<Server> {
        self.check_it_polls()?;
        let sockets = bind_at_all(resolve(to).await?, options.reuse_port)?;
        Ok(Server(Serving::new(self.inner(), sockets, None, options, boxed(factory))?))
    }

    /// As [`EventLoop::create_server`], at `path`. A socket that somebody left there is replaced, and the
    /// server's own is removed when it is closed.
    pub async fn create_unix_server<P: Protocol + 'static>(
        &self,
        factory: impl FnMut() -> P + 'static,
        path: impl AsRef<Path>,
    ) -> io::Result<Server> {
        self.create_unix_server_with(factory, path, ServerOptions::default()).await
    }

    /// As [`EventLoop::create_unix_server`], in the way that `options` say.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use velodrome::{Protocol, ServerOptions, Transport, UnixStream};
    ///
    /// #[derive(Default)]
    /// struct Greet(Option<Transport>);
    ///
    /// impl Protocol for Greet {
    ///     fn connection_made(&mut self, transport: Transport) {
    ///         transport.write(b"hello");
    ///         self.0 = Some(transport);
    ///     }
    /// }
    ///
    /// let event_loop = velodrome::get_running_loop().unwrap();
    /// let path = std::env::temp_dir().join(format!("velodrome-greet-{}", std::process::id()));
    /// let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
    /// let server = event_loop.create_unix_server_with(Greet::default, &path, options).await?;
    /// server.start_serving().await?;
    /// let mut greeting = [0; 5];
    /// UnixStream::connect(&path).await?.read_exact(&mut greeting).await?;
    /// assert_eq!(&greeting, b"hello");
    /// server.close();
    ///
    /// // What accepts from the begin.
    /// let server = event_loop.create_unix_server(Greet::default, &path).await?;
    /// let (transport, _protocol) = event_loop.create_unix_connection(Greet::default, &path).await?;
    /// transport.close();
    /// server.close();
    /// assert!(!path.exists());
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn create_unix_server_with<P: Protocol + 'static>(
        &self,
        factory: impl FnMut() -> P + 'static,
        path: impl AsRef<Path>,
        options: ServerOptions,
    ) -> io::Result<Server> {
        self.check_it_polls()?;
        let path = path.as_ref();
        if stat(path).is_ok_and(|at| FileType::from_raw_mode(at.st_mode) == FileType::Socket) {
            unlink(path)?;
        }
        let sockets = vec![bind_at_path(path)?];
        let path = Some(path.into());
        Ok(Server(Serving::new(self.inner(), sockets, path, options, boxed(factory))?))
    }

    /// Opens a UDP socket at `local`, or at any port, that sends to and receives from `remote` only if that
    /// is given, and has `factory` make a protocol for it. One of the two is needed. Done when
    /// `connection_made` was called. [`resolve`](crate::net::resolve) makes addresses of names.
    ///
    /// ```
    /// use std::{io, net::SocketAddr};
    /// use velodrome::{DatagramProtocol, DatagramTransport, UdpSocket};
    ///
    /// #[derive(Default)]
    /// struct Echo(Option<DatagramTransport>);
    ///
    /// impl DatagramProtocol for Echo {
    ///     fn connection_made(&mut self, transport: DatagramTransport) {
    ///         self.0 = Some(transport);
    ///     }
    ///
    ///     fn datagram_received(&mut self, data: &[u8], from: SocketAddr) {
    ///         self.0.as_ref().expect("it was made").sendto(data, Some(from));
    ///     }
    /// }
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let local = "127.0.0.1:0".parse().ok();
    ///     let (transport, _) =
    ///         event_loop.create_datagram_endpoint(Echo::default, local, None).await?;
    ///     let client = UdpSocket::bind("127.0.0.1:0").await?;
    ///     client.send_to(b"hello", transport.local_addr().expect("it is open")).await?;
    ///     let mut answer = [0; 16];
    ///     let (count, _) = client.recv_from(&mut answer).await?;
    ///     assert_eq!(&answer[..count], b"hello");
    ///     transport.close();
    ///     io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn create_datagram_endpoint<P: DatagramProtocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> io::Result<(DatagramTransport, Rc<RefCell<P>>)> {
        self.check_it_polls()?;
        let Some(address) = local.or(remote) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "unexpected address family"));
        };
        let socket = socket_of(address, SocketType::DGRAM)?;
        if let Some(local) = local {
            bind(&socket, &local)?;
        }
        if let Some(remote) = remote {
            connect(&socket, &remote)?;
        }
        let protocol = Rc::new(RefCell::new(factory()));
        let endpoint = Endpoint::over(self.inner(), socket, protocol.clone(), remote)?;
        wait_until_open(&endpoint).await;
        Ok((DatagramTransport(endpoint), protocol))
    }

    /// `NoRunningLoop`, unless this is the loop that polls the caller.
    fn check_it_polls(&self) -> io::Result<()> {
        let polling = driver::current().map_err(io::Error::other)?;
        if std::ptr::addr_eq(Rc::as_ptr(&polling), Rc::as_ptr(self.inner())) {
            return Ok(());
        }
        Err(io::Error::other(Error::NoRunningLoop))
    }
}

fn boxed<P: Protocol + 'static>(mut factory: impl FnMut() -> P) -> impl FnMut() -> AnyProtocol {
    move || Rc::new(RefCell::new(factory()))
}

/// A socket at each address that the host has: a name may stand for others, too, as for `::1` where there
/// is no IPv6.
fn bind_at_all(addresses: Vec<SocketAddr>, reuse_port: bool) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    let mut missing = None;
    for (at, address) in addresses.iter().enumerate() {
        if addresses[..at].contains(address) {
            continue;
        }
        match bind_at(*address, reuse_port) {
            Ok(socket) => sockets.push(socket),
            Err(error) if is_missing(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Waits until the protocol knows its transport, which is closed if nobody waits for that any more.
async fn wait_until_open<T: Based>(transport: &Rc<T>) {
    let mut given_up = GivenUp(Some(transport.clone()));
    transport.base().opened.wait().await;
    given_up.0 = None;
}

struct GivenUp<T: Based>(Option<Rc<T>>);

impl<T: Based> Drop for GivenUp<T> {
    fn drop(&mut self) {
        if let Some(transport) = self.0.take() {
            transport.close();
        }
    }
}
