//! asyncio's servers: each connection that they accept gets a protocol of its own.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    rc::{Rc, Weak},
    time::Duration,
};

use rustix::{
    fs::{Stat, stat, unlink},
    net::{getsockname, listen},
};
use slab::Slab;

use super::{
    Transport,
    connection::{AnyProtocol, Connection},
};
use crate::{
    Errno, Error, Interest,
    endpoint::{Endpoint, Turn},
    event_loop::{FdSource, Inner},
    net::{BACKLOG, set_nodelay},
    panics::quietly,
    server::{Accepted, accept, is_somebody_waiting},
    sync::Event,
    time::sleep,
};

/// asyncio's pause after descriptors or memory ran out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// How [`EventLoop::create_server_with`](crate::EventLoop::create_server_with) makes a server: asyncio's
/// keywords of `create_server`.
///
/// ```
/// let options = velodrome::ServerOptions { reuse_port: true, ..Default::default() };
/// assert!(options.start_serving);
/// assert_eq!(options.backlog, 100);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Whether it accepts connections from the begin. Otherwise it has its sockets, and listens at none before
    /// [`Server::start_serving`] or [`Server::serve_forever`].
    pub start_serving: bool,
    /// How many connections may wait to be accepted.
    pub backlog: u16,
    /// Whether servers of other loops and processes may listen at the same address, if they say so, too: the kernel
    /// gives each connection to one of them. Of TCP.
    pub reuse_port: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions { start_serving: true, backlog: BACKLOG as u16, reuse_port: false }
    }
}

/// What [`EventLoop::create_server`](crate::EventLoop::create_server) made, as `asyncio.Server`. Clones are
/// the same server.
///
/// It serves until [`Server::close`], or until the loop is closed: dropping it changes nothing, once it serves.
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{Protocol, Server, TcpStream};
///
/// struct Nothing;
/// impl Protocol for Nothing {}
///
/// let event_loop = velodrome::get_running_loop().unwrap();
/// let server: Server = event_loop.create_server(|| Nothing, "127.0.0.1:0").await?;
/// let client = TcpStream::connect(server.sockets()[0]).await?;
/// assert!(server.is_serving());
/// server.close();
/// server.close_clients();
/// // Those that have much to send take their time.
/// server.abort_clients();
/// server.wait_closed().await;
/// # drop(client);
/// # std::io::Result::Ok(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Clone)]
pub struct Server(pub(super) Rc<Serving>);

impl Server {
    /// Accepts connections from now on, if it does not yet: see [`ServerOptions::start_serving`]. An error if it is
    /// closed, or if the address was taken meanwhile, which closes it.
    pub async fn start_serving(&self) -> io::Result<()> {
        self.0.start()?;
        sleep(Duration::ZERO).await;
        Ok(())
    }

    /// Accepts connections until somebody closes the server and its connections are lost. (asyncio ends it with
    /// `CancelledError` then.) Dropping the future, as when its task is cancelled, closes the server; asyncio waits for
    /// the connections there, too, as [`Server::wait_closed`] does.
    ///
    /// An error if it is closed, or awaited in another task.
    ///
    /// ```
    /// use std::time::Duration;
    /// use velodrome::{Protocol, timeout};
    ///
    /// struct Nothing;
    /// impl Protocol for Nothing {}
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let server = event_loop.create_server(|| Nothing, "127.0.0.1:0").await?;
    ///     assert!(timeout(Duration::from_millis(1), server.serve_forever()).await.is_err());
    ///     assert!(!server.is_serving());
    ///     std::io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn serve_forever(&self) -> io::Result<()> {
        let serving = &self.0;
        if serving.is_served_forever.get() && !serving.is_closed.get() {
            let message = "the server is already being awaited on serve_forever()";
            return Err(io::Error::other(message));
        }
        serving.start()?;
        serving.is_served_forever.set(true);
        let _ends = Ends(serving);
        serving.is_over.wait().await;
        Ok(())
    }

    /// Accepts no more. Connections stay as they are. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes the connections that are left, as [`Transport::close`] does.
    pub fn close_clients(&self) {
        for client in self.0.clients() {
            client.close();
        }
    }

    /// Aborts the connections that are left, as [`Transport::abort`] does.
    pub fn abort_clients(&self) {
        for client in self.0.clients() {
            client.abort();
        }
    }

    /// Waits until the server is closed and its connections are lost.
    pub async fn wait_closed(&self) {
        self.0.is_over.wait().await;
    }

    /// Whether it accepts connections.
    pub fn is_serving(&self) -> bool {
        self.0.is_started.get()
            && self.0.listeners.borrow().iter().any(|listener| listener.socket.borrow().is_some())
    }

    /// The addresses of its sockets, in asyncio's words `sockets`: none once it is closed, or of a Unix
    /// socket.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let listeners = self.0.listeners.borrow();
        listeners.iter().filter_map(|listener| listener.address()).collect()
    }
}

/// Who serves forever has ended.
struct Ends<'a>(&'a Serving);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.is_served_forever.set(false);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("sockets", &self.sockets())
            .field("serving", &self.is_serving())
            .finish()
    }
}

/// A server, as its listeners and connections have it.
pub(super) struct Serving {
    listeners: RefCell<Vec<Rc<Listener>>>,
    clients: RefCell<Slab<Weak<Connection>>>,
    is_started: Cell<bool>,
    is_closed: Cell<bool>,
    is_served_forever: Cell<bool>,
    /// It is closed, and no client is left.
    is_over: Event,
    /// The socket of the file system that goes in the end, if it is still this one.
    path: Cell<Option<(PathBuf, Stat)>>,
}

impl Serving {
    /// Of sockets that do not listen yet.
    pub fn new(
        event_loop: &Rc<Inner>,
        sockets: Vec<OwnedFd>,
        path: Option<PathBuf>,
        options: ServerOptions,
        factory: impl FnMut() -> AnyProtocol + 'static,
    ) -> io::Result<Rc<Self>> {
        let path = path.and_then(|path| stat(&path).ok().map(|at| (path, at)));
        let factory: Factory = Rc::new(RefCell::new(factory));
        let listener = |socket: OwnedFd| {
            Rc::new(Listener {
                number: socket.as_raw_fd(),
                socket: RefCell::new(Some(socket)),
                backlog: options.backlog.into(),
                event_loop: Rc::downgrade(event_loop),
                factory: RefCell::new(Some(Rc::clone(&factory))),
                server: RefCell::new(None),
                key: Cell::new(None),
            })
        };
        let serving = Rc::new(Serving {
            listeners: RefCell::new(sockets.into_iter().map(listener).collect()),
            clients: RefCell::default(),
            is_started: Cell::new(false),
            is_closed: Cell::new(false),
            is_served_forever: Cell::new(false),
            is_over: Event::new(),
            path: Cell::new(path),
        });
        if options.start_serving {
            serving.start()?;
        }
        Ok(serving)
    }

    /// Listens at all sockets, or closes.
    fn start(self: &Rc<Self>) -> io::Result<()> {
        if self.is_closed.get() {
            return Err(io::Error::other("the server is closed"));
        }
        if self.is_started.replace(true) {
            return Ok(());
        }
        let listeners = self.listeners.borrow().clone();
        let started = listeners.iter().try_for_each(|listener| listener.start(self));
        started.inspect_err(|_| self.close())
    }

    fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        let listeners = self.listeners.take();
        listeners.iter().for_each(|listener| listener.let_go());
        if let Some((path, made)) = self.path.take()
            && stat(&path).is_ok_and(|at| (at.st_dev, at.st_ino) == (made.st_dev, made.st_ino))
        {
            // Somebody else may have been quicker.
            let _ = unlink(&path);
        }
        self.end_if_over();
    }

    fn end_if_over(&self) {
        if self.is_closed.get() && self.clients.borrow().is_empty() {
            self.is_over.set();
        }
    }

    /// A client, until it is detached.
    pub fn attach(&self, client: &Rc<Connection>) -> usize {
        self.clients.borrow_mut().insert(Rc::downgrade(client))
    }

    pub fn detach(&self, key: usize) {
        let client = self.clients.borrow_mut().remove(key);
        drop(client);
        self.end_if_over();
    }

    /// The connections that are not lost.
    fn clients(&self) -> Vec<Transport> {
        self.clients
            .borrow()
            .iter()
            .filter_map(|(_, client)| client.upgrade())
            .map(Transport)
            .collect()
    }
}

type Factory = Rc<RefCell<dyn FnMut() -> AnyProtocol>>;

/// A socket that listens.
struct Listener {
    /// `None` once it is closed.
    socket: RefCell<Option<OwnedFd>>,
    number: RawFd,
    backlog: i32,
    event_loop: Weak<Inner>,
    factory: RefCell<Option<Factory>>,
    /// While it listens: the server is there even if nobody else keeps it.
    server: RefCell<Option<Rc<Serving>>>,
    /// Among the endpoints of the loop.
    key: Cell<Option<usize>>,
}

impl Listener {
    fn start(self: &Rc<Self>, server: &Rc<Serving>) -> io::Result<()> {
        let event_loop = self.event_loop.upgrade().filter(|event_loop| !event_loop.is_closed());
        let event_loop = event_loop.ok_or_else(|| io::Error::other(Error::Closed))?;
        if let Some(socket) = &*self.socket.borrow() {
            listen(socket, self.backlog)?;
            // What it accepts inherits it.
            set_nodelay(socket.as_fd());
        }
        let source = FdSource::Endpoint(self.clone());
        let replaced = event_loop.reactor().register(self.number, source, Interest::READ)?;
        drop(replaced);
        self.key.set(Some(event_loop.endpoints().add(self.clone())));
        self.server.replace(Some(server.clone()));
        Ok(())
    }

    fn address(&self) -> Option<SocketAddr> {
        let socket = self.socket.borrow();
        getsockname(socket.as_ref()?).ok()?.try_into().ok()
    }

    /// Accepts who waits, up to as many as can wait.
    fn accept(self: &Rc<Self>) {
        for already in 0..=self.backlog {
            let accepted = match &*self.socket.borrow() {
                // The poller has told of the first.
                Some(socket) if already > 0 && !is_somebody_waiting(socket.as_fd()) => return,
                Some(socket) => accept(socket.as_fd()),
                // A protocol factory has closed the server.
                None => return,
            };
            match accepted {
                Ok(Accepted::Connection(fd, _)) => self.connect(fd),
                Ok(Accepted::Empty) => return,
                Ok(Accepted::Exhausted(error)) => return self.pause(error),
                Ok(Accepted::Failed(error)) => return self.failed_to_accept(error),
                Err(error) => {
                    // Otherwise the poller would report it for ever.
                    self.let_go();
                    return self.failed_to_accept(error);
                }
            }
        }
    }

    fn connect(&self, fd: OwnedFd) {
        let server = self.server.borrow().clone();
        let (Some(event_loop), Some(server)) = (self.event_loop.upgrade(), server) else {
            return;
        };
        let factory = self.factory.borrow().clone();
        let Some(factory) = factory else { return };
        let made = catch_unwind(AssertUnwindSafe(|| (factory.borrow_mut())()));
        quietly(|| drop(factory));
        let failed: Box<dyn Any + Send> = match made {
            // By the factory: nobody waits for one more connection.
            Ok(protocol) if server.is_closed.get() => return quietly(|| drop(protocol)),
            Ok(protocol) => match Connection::over(&event_loop, fd, protocol, Some(server)) {
                Ok(_) => return,
                Err(error) => Box::new(error.to_string()),
            },
            Err(panic) => panic,
        };
        let message = "Error on transport creation for incoming connection";
        event_loop.tell_of(message.into(), failed);
    }

    #[cold]
    fn failed_to_accept(&self, error: Errno) {
        self.tell_of("socket.accept() failed", error);
    }

    /// Descriptors or memory ran out: one message, and another try in a while.
    #[cold]
    fn pause(self: &Rc<Self>, error: Errno) {
        self.watch_for(Interest::NONE);
        self.tell_of("socket.accept() out of system resource", error);
        let Some(event_loop) = self.event_loop.upgrade() else { return };
        let listener = Rc::downgrade(self);
        event_loop.call_after(ACCEPT_RETRY_DELAY, move || {
            if let Some(listener) = listener.upgrade() {
                listener.watch_for(Interest::READ);
            }
        });
    }

    fn tell_of(&self, message: &str, error: Errno) {
        if let Some(event_loop) = self.event_loop.upgrade() {
            event_loop.tell_of(message.into(), Box::new(error.to_string()));
        }
    }

    /// Unless the server was closed meanwhile.
    fn watch_for(&self, interest: Interest) {
        if self.socket.borrow().is_none() {
            return;
        }
        let Some(event_loop) = self.event_loop.upgrade() else { return };
        if let Err(error) = event_loop.reactor().set_interest(self.number, interest) {
            self.tell_of("a listening socket cannot be watched", error);
        }
    }
}

impl Endpoint for Listener {
    fn take_turn(self: Rc<Self>, turn: Turn) {
        if let Turn::Ready(_) = turn {
            self.accept();
        }
    }

    fn let_go(&self) {
        let Some(socket) = self.socket.take() else { return };
        let event_loop = self.event_loop.upgrade();
        // It is there once it listens.
        let held = event_loop.zip(self.key.take()).map(|(event_loop, key)| {
            (event_loop.reactor().deregister(self.number), event_loop.endpoints().remove(key))
        });
        drop(socket);
        let factory = self.factory.take();
        quietly(|| drop(factory));
        drop((held, self.server.take()));
    }
}
