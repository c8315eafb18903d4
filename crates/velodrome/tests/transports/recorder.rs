//! A protocol that writes down what it is told, and what the tests do with it.

use std::{
    cell::RefCell,
    io::{self, Read},
    os::unix::net::UnixStream,
    rc::Rc,
    time::{Duration, Instant},
};

use velodrome::{
    Event, EventLoop, ExceptionContext, Protocol, Transport, get_running_loop, panic_message,
    sleep, timeout,
};

pub const LONG: Duration = Duration::from_secs(10);
pub const MEGABYTE: usize = 1 << 20;

type AtStart = Box<dyn FnOnce(&Transport)>;
type AtData = Box<dyn FnMut(&Transport, &[u8])>;
pub type Log = Rc<RefCell<Vec<String>>>;

/// Writes down what it is told, and does what it is asked to.
#[derive(Default)]
pub struct Recorder {
    pub log: Log,
    pub transport: Option<Transport>,
    pub keeps_open: bool,
    /// The method that panics.
    pub panics_in: &'static str,
    pub at_start: Option<AtStart>,
    pub at_data: Option<AtData>,
    pub is_over: Rc<Event>,
}

impl Recorder {
    fn note(&self, method: &str, text: &str) {
        self.log.borrow_mut().push(format!("{method}{text}"));
        assert!(self.panics_in != method, "{method} is broken");
    }

    pub fn logging(log: &Log) -> Self {
        Recorder { log: log.clone(), ..Recorder::default() }
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: Transport) {
        self.transport = Some(transport.clone());
        self.note("made", "");
        if let Some(act) = self.at_start.take() {
            act(&transport);
        }
    }

    fn data_received(&mut self, data: &[u8]) {
        let text = if data.len() < 100 { String::from_utf8_lossy(data) } else { "...".into() };
        self.note("data", &format!(" {text}"));
        let transport = self.transport.clone().expect("the connection was made");
        if let Some(act) = &mut self.at_data {
            act(&transport, data);
        }
        assert!(self.panics_in != "data", "data is broken");
    }

    fn eof_received(&mut self) -> bool {
        self.note("eof", "");
        self.keeps_open
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.is_over.set();
        let error = error.map_or(String::new(), |error| format!(" {error}"));
        self.log.borrow_mut().push(format!("lost{error}"));
        assert!(self.panics_in != "lost", "lost is broken");
    }

    fn pause_writing(&mut self) {
        self.note("pause", "");
    }

    fn resume_writing(&mut self) {
        self.note("resume", "");
    }
}

pub fn the_loop() -> EventLoop {
    get_running_loop().unwrap()
}

/// A transport with this protocol, and its peer.
pub async fn connected(recorder: Recorder) -> (Transport, Rc<RefCell<Recorder>>, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let event_loop = the_loop();
    let connected = event_loop.connect_accepted_socket(|| recorder, ours).await.unwrap();
    (connected.0, connected.1, peer)
}

pub async fn over(protocol: &Rc<RefCell<Recorder>>) {
    let is_over = protocol.borrow().is_over.clone();
    timeout(LONG, is_over.wait()).await.expect("connection_lost is called");
    // What comes after it would be seen.
    turns(3).await;
}

pub async fn turns(count: usize) {
    for _ in 0..count {
        sleep(Duration::ZERO).await;
    }
}

/// Goes round until it holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LONG, "it never holds");
        sleep(Duration::from_millis(1)).await;
    }
}

/// What the exception handler is told.
pub fn told(event_loop: &EventLoop) -> Log {
    let told = Log::default();
    let log = told.clone();
    event_loop.set_exception_handler(Some(move |_: &EventLoop, context: &ExceptionContext| {
        let text = panic_message(context.exception.as_ref());
        log.borrow_mut().push(format!("{}: {text}", context.message));
    }));
    told
}

pub fn read_what_is_there(peer: &mut UnixStream) -> usize {
    let mut buffer = vec![0; MEGABYTE];
    match peer.read(&mut buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Sends back what it gets.
pub fn echo() -> Recorder {
    Recorder {
        at_data: Some(Box::new(|transport, data| transport.write(data))),
        ..Recorder::default()
    }
}
