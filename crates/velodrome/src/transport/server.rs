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
    net::getsockname,
};
use slab::Slab;

use super::{
    Transport,
    connection::{AnyProtocol, Connection},
};
use crate::{
    Errno, Interest,
    endpoint::{Endpoint, Turn},
    event_loop::{FdSource, Inner},
    net::{BACKLOG, set_nodelay},
    panics::quietly,
    server::{Accepted, accept},
    sync::Event,
};

/// asyncio's pause after descriptors or memory ran out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What [`EventLoop::create_server`](crate::EventLoop::create_server) made, as `asyncio.Server`. Clones are
/// the same server.
///
/// It serves until [`Server::close`], or until the loop is closed: dropping it changes nothing.
#[derive(Clone)]
pub struct Server(pub(super) Rc<Serving>);

impl Server {
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
        self.0.listeners.borrow().iter().any(|listener| listener.socket.borrow().is_some())
    }

    /// The addresses of its sockets, in asyncio's words `sockets`: none once it is closed, or of a Unix
    /// socket.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let listeners = self.0.listeners.borrow();
        listeners.iter().filter_map(|listener| listener.address()).collect()
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
    is_closed: Cell<bool>,
    /// It is closed, and no client is left.
    is_over: Event,
    /// The socket of the file system that goes in the end, if it is still this one.
    path: Cell<Option<(PathBuf, Stat)>>,
}

impl Serving {
    /// Listens at all of `sockets`, or at none.
    pub fn start(
        event_loop: &Rc<Inner>,
        sockets: Vec<OwnedFd>,
        path: Option<PathBuf>,
        factory: impl FnMut() -> AnyProtocol + 'static,
    ) -> io::Result<Rc<Self>> {
        let path = path.and_then(|path| stat(&path).ok().map(|at| (path, at)));
        let serving = Rc::new(Serving {
            listeners: RefCell::default(),
            clients: RefCell::default(),
            is_closed: Cell::new(false),
            is_over: Event::new(),
            path: Cell::new(path),
        });
        let factory: Factory = Rc::new(RefCell::new(factory));
        for socket in sockets {
            match Listener::start(event_loop, socket, Rc::clone(&factory), &serving) {
                Ok(listener) => serving.listeners.borrow_mut().push(listener),
                Err(error) => {
                    serving.close();
                    return Err(error);
                }
            }
        }
        Ok(serving)
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
    event_loop: Weak<Inner>,
    factory: RefCell<Option<Factory>>,
    server: Weak<Serving>,
    /// Among the endpoints of the loop.
    key: Cell<Option<usize>>,
}

impl Listener {
    fn start(
        event_loop: &Rc<Inner>,
        socket: OwnedFd,
        factory: Factory,
        server: &Rc<Serving>,
    ) -> io::Result<Rc<Self>> {
        // What it accepts inherits it.
        set_nodelay(socket.as_fd());
        let listener = Rc::new(Listener {
            number: socket.as_raw_fd(),
            socket: RefCell::new(Some(socket)),
            event_loop: Rc::downgrade(event_loop),
            factory: RefCell::new(Some(factory)),
            server: Rc::downgrade(server),
            key: Cell::new(None),
        });
        let source = FdSource::Endpoint(listener.clone());
        let replaced = event_loop.reactor().register(listener.number, source, Interest::READ)?;
        drop(replaced);
        listener.key.set(Some(event_loop.endpoints().add(listener.clone())));
        Ok(listener)
    }

    fn address(&self) -> Option<SocketAddr> {
        let socket = self.socket.borrow();
        getsockname(socket.as_ref()?).ok()?.try_into().ok()
    }

    /// Accepts who waits, up to as many as can wait.
    fn accept(self: &Rc<Self>) {
        for _ in 0..=BACKLOG {
            let accepted = match &*self.socket.borrow() {
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
        let (Some(event_loop), Some(server)) = (self.event_loop.upgrade(), self.server.upgrade())
        else {
            return;
        };
        let factory = self.factory.borrow().clone();
        let Some(factory) = factory else { return };
        let made = catch_unwind(AssertUnwindSafe(|| (factory.borrow_mut())()));
        quietly(|| drop(factory));
        let failed: Box<dyn Any + Send> = match made {
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
        let held = event_loop.map(|event_loop| {
            let registered = event_loop.reactor().deregister(self.number);
            (registered, self.key.take().and_then(|key| event_loop.endpoints().remove(key)))
        });
        drop(socket);
        let factory = self.factory.take();
        quietly(|| drop(factory));
        drop(held);
    }
}
