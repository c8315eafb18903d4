//! A closed-loop load generator: N connections on one thread, each sending its next request when the last answer is complete.
//!
//! It checks every byte that comes back, and reads the server's CPU clock at both ends of the measured window, so that the
//! operations and the CPU time belong to the same stretch of time. One JSON line on standard output is the result;
//! a wrong byte, a lost connection or a server that stops answering is a message on standard error and status 1.

mod client;
mod exchange;
mod options;
mod report;
mod sys;
mod tls;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::Client;
use options::Options;
use report::{Report, Tally};
use sys::{CpuClock, Epoll};

/// A server that completes nothing for this long is broken, not slow.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("loadgen: {message}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match generate_load(&options) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate_load(options: &Options) -> Result<Report, Box<dyn Error>> {
    let server_clock = options.server_pid.map(CpuClock::of_process).transpose()?;
    let own_clock = CpuClock::of_this_process();
    let epoll = Epoll::new()?;
    let mut clients = (0..options.connections)
        .map(|index| Client::connect(index, &options.work, &epoll))
        .collect::<Result<Vec<_>, _>>()?;

    let mut load =
        Load { epoll: &epoll, scratch: vec![0; 256 * 1024], last_completion: Instant::now() };
    load.run_for(options.warm_up, &mut clients, &mut Tally::default())?;

    let server_cpu_before = server_clock.as_ref().map(CpuClock::now).transpose()?;
    let own_cpu_before = own_clock.now()?;
    let started = Instant::now();
    let mut tally = Tally { operations: 0, latencies_ns: Vec::with_capacity(1 << 20) };
    load.run_for(options.window, &mut clients, &mut tally)?;
    let elapsed = started.elapsed();
    let own_cpu = own_clock.now()? - own_cpu_before;
    let server_cpu = match (&server_clock, server_cpu_before) {
        (Some(clock), Some(before)) => Some(clock.now()? - before),
        _ => None,
    };
    Ok(Report { tally, elapsed, server_cpu, own_cpu })
}

struct Load<'a> {
    epoll: &'a Epoll,
    scratch: Vec<u8>,
    last_completion: Instant,
}

impl Load<'_> {
    /// Keeps every client busy for `duration`; counts what was completed meanwhile.
    fn run_for(
        &mut self,
        duration: Duration,
        clients: &mut [Client],
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + duration;
        let mut ready = sys::EventBuffer::new();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now - self.last_completion > SILENCE_LIMIT {
                return Err(format!("the server completed nothing for {SILENCE_LIMIT:?}").into());
            }
            // Rounded up, so the last wait does not become a busy loop.
            let timeout_ms = ((end - now).as_millis() as i32 + 1).min(1000);
            for index in self.epoll.wait(&mut ready, timeout_ms)? {
                let client = &mut clients[index];
                let progress = client.advance(&mut self.scratch)?;
                if progress.operations > 0 {
                    self.last_completion = Instant::now();
                    tally.operations += progress.operations;
                    tally.latencies_ns.extend(progress.latency.map(|time| time.as_nanos() as u64));
                }
            }
        }
    }
}
