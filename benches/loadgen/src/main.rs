//! A closed-loop load generator: N connections on one thread, each sending its next request when the last answer is complete.
//!
//! With `--pipeline` a connection has several requests under way, with `--download` it only receives, and with `--invite`
//! it is the server that connects.
//! With `--idle` it opens connections instead, and asks how much memory the server needs for one that does nothing.
//! It checks every byte that comes back, and reads the server's CPU clock at both ends of the measured window, so that the
//! operations and the CPU time belong to the same stretch of time. One JSON line on standard output is the result;
//! a wrong byte, a lost connection or a server that stops answering is a message on standard error and status 1.

mod client;
mod exchange;
mod host;
mod options;
mod report;
mod websocket;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use client::Client;
use host::Host;
use loadgen::sys::{self, CpuClock, Epoll, EventBuffer};
use options::{Options, Purpose};
use report::{Footprint, Report, Tally};

/// A server that completes nothing for this long is broken, not slow.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// By then every connection has had an answer; ten thousand of them take the slowest loops some seconds.
const MEETING_LIMIT: Duration = Duration::from_secs(20);

/// How long a window may become.
const WINDOW_LIMIT: Duration = Duration::from_secs(20);

/// Connections that are open already when the memory of the others is measured.
const IDLE_WARM_UP: usize = 50;

/// How long a server may go on doing what its last answer left to do.
const SETTLING: Duration = Duration::from_millis(100);

/// More connections than this end in a reset: TIME_WAIT would keep a port for each, and the next run needs as many.
const ORDERLY_LIMIT: usize = 1000;

/// How long the last operations may take, which are not measured any more.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("loadgen: {message}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let found = match options.purpose {
        Purpose::Load { warm_up, window } => {
            generate_load(&options, warm_up, window).map(|report| report.to_string())
        }
        Purpose::Idle { server_pid } => {
            hold_connections(&options, server_pid).map(|footprint| footprint.to_string())
        }
    };
    match found {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a turn of the load generator moves on.
trait Peer {
    /// Does what its sockets allow, and counts the operations that this completes.
    fn advance(&mut self, scratch: &mut [u8], tally: &mut Tally) -> io::Result<()>;

    /// Whether the server has sent anything that was asked for.
    fn was_answered(&self) -> bool;

    /// Makes the operations under way the last.
    fn leave(&mut self) -> io::Result<()>;

    fn has_left(&self) -> bool;

    /// Spares both sides TIME_WAIT, once the server may not mind. Comes too late where both have ended, our side first.
    fn reset_on_close(&self) -> io::Result<()>;
}

type Peers<'a> = Vec<Box<dyn Peer + 'a>>;

fn generate_load(
    options: &Options,
    warm_up: Duration,
    window: Duration,
) -> Result<Report, Box<dyn Error>> {
    let server_clocks = options
        .server_pids
        .iter()
        .map(|&pid| CpuClock::of_process(pid))
        .collect::<Result<Vec<_>, _>>()?;
    let own_clock = CpuClock::of_this_process();
    let epoll = Epoll::new()?;
    let mut peers = connect_all(options, &epoll)?;

    let mut load = Load::new(&epoll);
    load.meet_all(&mut peers)?;
    load.run_for(warm_up, &mut peers, &mut Tally::default())?;

    let server_cpu_before = times(&server_clocks)?;
    let own_cpu_before = own_clock.now()?;
    let (began, started) = (SystemTime::now(), Instant::now());
    let mut tally = Tally { operations: 0, latencies_ns: Vec::with_capacity(1 << 20) };
    load.measure(window, &mut peers, &mut tally)?;
    let elapsed = started.elapsed();
    let own_cpu = own_clock.now()? - own_cpu_before;
    let server_cpu = times(&server_clocks)?
        .into_iter()
        .zip(server_cpu_before)
        .map(|(after, before)| after - before)
        .collect();
    load.finish(&mut peers)?;
    Ok(Report { tally, began, elapsed, server_cpu, own_cpu })
}

fn connect_all<'a>(options: &'a Options, epoll: &'a Epoll) -> io::Result<Peers<'a>> {
    let mut peers = Peers::new();
    for index in 0..options.connections {
        peers.push(match options.invites {
            true => Box::new(Host::invite(index, &options.work, epoll)?),
            false => Box::new(Client::connect(index, &options.work, epoll)?),
        });
    }
    Ok(peers)
}

fn times(clocks: &[CpuClock]) -> io::Result<Vec<Duration>> {
    clocks.iter().map(CpuClock::now).collect()
}

/// Opens connections one after the other, each for one exchange, and keeps them: what does one cost the server?
fn hold_connections(options: &Options, server_pid: i32) -> Result<Footprint, Box<dyn Error>> {
    let epoll = Epoll::new()?;
    let mut load = Load::new(&epoll);
    let mut peers = Peers::new();
    // What the first connections cost is also what is loaded for the first time, and spare room.
    load.hold(IDLE_WARM_UP, options, &mut peers)?;
    let bytes_before = sys::private_bytes(server_pid)?;
    load.hold(options.connections, options, &mut peers)?;
    let bytes_after = sys::private_bytes(server_pid)?;
    Ok(Footprint { connections: options.connections, bytes_before, bytes_after })
}

struct Load<'a> {
    epoll: &'a Epoll,
    ready: EventBuffer,
    scratch: Vec<u8>,
    last_completion: Instant,
}

impl<'a> Load<'a> {
    fn new(epoll: &'a Epoll) -> Self {
        Self {
            epoll,
            ready: EventBuffer::default(),
            scratch: vec![0; 256 * 1024],
            last_completion: Instant::now(),
        }
    }

    /// Adds `count` connections and waits until each had its exchange and the server may be expected to rest.
    fn hold(
        &mut self,
        count: usize,
        options: &'a Options,
        peers: &mut Peers<'a>,
    ) -> Result<(), Box<dyn Error>> {
        for _ in 0..count {
            peers.push(Box::new(Client::connect(peers.len(), &options.work, self.epoll)?));
            let mut tally = Tally::default();
            while tally.operations == 0 {
                self.turn(SILENCE_LIMIT, peers, &mut tally)?;
            }
        }
        self.run_for(SETTLING, peers, &mut Tally::default())
    }

    /// Goes on until every peer has been answered: a server may be long in accepting them all.
    fn meet_all(&mut self, peers: &mut Peers) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + MEETING_LIMIT;
        while !peers.iter().all(|peer| peer.was_answered()) {
            if Instant::now() > deadline {
                return Err(format!("not all were answered within {MEETING_LIMIT:?}").into());
            }
            self.turn(MEETING_LIMIT, peers, &mut Tally::default())?;
        }
        Ok(())
    }

    /// Keeps every peer busy for `duration`; counts what was completed meanwhile.
    fn run_for(
        &mut self,
        duration: Duration,
        peers: &mut Peers,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + duration;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            self.turn(end - now, peers, tally)?;
        }
    }

    /// Like `run_for`, and goes on until there are as many operations as peers. With fewer, what is under way at both ends
    /// of the window would weigh more than what it contains; on a busy machine a short one would contain nothing.
    fn measure(
        &mut self,
        window: Duration,
        peers: &mut Peers,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        self.run_for(window, peers, tally)?;
        while tally.operations < peers.len() && began.elapsed() < WINDOW_LIMIT {
            self.turn(SILENCE_LIMIT, peers, tally)?;
        }
        Ok(())
    }

    /// Lets every peer end its operations, so that a server that reports broken connections has none to report.
    fn finish(&mut self, peers: &mut Peers) -> Result<(), Box<dyn Error>> {
        for peer in peers.iter_mut() {
            peer.leave()?;
        }
        let deadline = Instant::now() + FAREWELL_LIMIT;
        while Instant::now() < deadline && !peers.iter().all(|peer| peer.has_left()) {
            self.turn(FAREWELL_LIMIT, peers, &mut Tally::default())?;
        }
        if peers.len() > ORDERLY_LIMIT {
            peers.iter().try_for_each(|peer| peer.reset_on_close())?;
        }
        Ok(())
    }

    /// Waits once, no longer than `longest`, and lets the peers do what they can.
    fn turn(
        &mut self,
        longest: Duration,
        peers: &mut Peers,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        if self.last_completion.elapsed() > SILENCE_LIMIT {
            return Err(format!("the server completed nothing for {SILENCE_LIMIT:?}").into());
        }
        // Rounded up, so the last wait does not become a busy loop.
        let timeout_ms = (longest.as_millis() as i32 + 1).min(1000);
        for index in self.epoll.wait(&mut self.ready, timeout_ms)? {
            let before = tally.operations;
            peers[index].advance(&mut self.scratch, tally)?;
            if tally.operations > before {
                self.last_completion = Instant::now();
            }
        }
        Ok(())
    }
}
