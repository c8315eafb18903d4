//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use loadgen::tls;

use crate::client::{Address, Afterwards, Work};
use crate::exchange::Exchange;

pub const USAGE: &str = "\
usage: loadgen (--tcp ADDRESS:PORT | --tls ADDRESS:PORT | --unix PATH | --udp ADDRESS:PORT |
                --websocket ADDRESS:PORT)
               (--echo BYTES | --lines BYTES | --frames BYTES | --request TEXT --reply TEXT |
                --upload BYTES | --download BYTES --variety N | --connect [--greeting TEXT])
               [--pipeline N | --reconnect [--resume] | --idle | --invite]
               [--connections N] [--warm-up-ms N] [--window-ms N] [--server-pid PID]...
               [--tls-version 1.2]

  --tls          TLS 1.3 over TCP; any certificate is accepted
  --websocket    WebSocket over TCP, for --frames
  --echo BYTES   send that many bytes, expect them back
  --lines BYTES   ... and make them a line
  --frames BYTES   ... and make them a binary message of WebSocket
  --request, --reply   send the one, expect exactly the other
  --upload BYTES   send one message of that many bytes after the other, each an operation; the server
                 answers for sixteen of them with the last byte
  --download BYTES   receive one message of that many bytes after the other, each an operation, until
                 the server answers our end with its own; N different ones over and over, which
                 together are the numbers from 0 on, four bytes each, the least significant first
  --connect      connect, wait for the server to close, close
  --greeting     ... which first says exactly this
  --pipeline N   send the next message when fewer than N are without an answer
  --reconnect    a TLS connection for each exchange, with full handshake and orderly close
  --resume       ... with a handshake that resumes the session of the one before
  --idle         open connections one after the other, keep each after one exchange, and report the
                 server's memory before and after; --server-pid tells whose
  --invite       send the number of a port as a line on each connection; the server connects to it
                 for one exchange, which it ends, and does so again until our end, which it answers
  --server-pid   report this process's CPU time over the window; of several, the sum and the least";

/// So many that the answers cost the server next to nothing.
const UPLOAD_STRIDE: usize = 16;

pub struct Options {
    pub work: Work,
    pub connections: usize,
    pub server_pids: Vec<i32>,
    pub invites: bool,
    pub purpose: Purpose,
}

pub enum Purpose {
    Load { warm_up: Duration, window: Duration },
    Idle { server_pid: i32 },
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut address, mut exchange) = (None, None);
        let (mut request, mut reply) = (None, None);
        let (mut download, mut variety) = (None, None);
        let (mut connect, mut greeting) = (false, None);
        let mut tls_version = tls::NEWEST;
        let (mut reconnect, mut resume, mut idle, mut invites) = (false, false, false, false);
        let mut connections = 1;
        let mut depth = 1;
        let mut warm_up = Duration::from_millis(100);
        let mut window = Duration::from_millis(1000);
        let mut server_pids = Vec::new();

        while let Some(name) = arguments.next() {
            let name = name.to_string_lossy().into_owned();
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--tcp" => address = Some(Address::Tcp(number(&name, value()?)?)),
                "--tls" => address = Some(Address::Tls(number(&name, value()?)?)),
                "--tls-version" => {
                    let number = value()?.to_string_lossy().into_owned();
                    tls_version = tls::version(&number).ok_or("no such version of TLS")?;
                }
                "--udp" => address = Some(Address::Udp(number(&name, value()?)?)),
                "--unix" => address = Some(Address::Unix(PathBuf::from(value()?))),
                "--websocket" => address = Some(Address::WebSocket(number(&name, value()?)?)),
                "--echo" => exchange = Some(Exchange::echo(at_least_one(&name, value()?)?)),
                "--lines" => exchange = Some(Exchange::lines(at_least_one(&name, value()?)?)),
                "--frames" => exchange = Some(Exchange::frames(at_least_one(&name, value()?)?)),
                "--upload" => {
                    let size = at_least_one(&name, value()?)?;
                    exchange = Some(Exchange::upload(size, UPLOAD_STRIDE));
                }
                "--download" => download = Some(at_least_one(&name, value()?)?),
                "--variety" => variety = Some(at_least_one(&name, value()?)?),
                "--request" => request = Some(value()?.into_vec()),
                "--reply" => reply = Some(value()?.into_vec()),
                "--connect" => connect = true,
                "--greeting" => greeting = Some(value()?.into_vec()),
                "--reconnect" => reconnect = true,
                "--resume" => resume = true,
                "--idle" => idle = true,
                "--invite" => invites = true,
                "--pipeline" => depth = at_least_one(&name, value()?)?,
                "--connections" => connections = at_least_one(&name, value()?)?,
                "--warm-up-ms" => warm_up = Duration::from_millis(number(&name, value()?)?),
                "--window-ms" => window = Duration::from_millis(number(&name, value()?)?),
                "--server-pid" => server_pids.push(number(&name, value()?)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        match (request, reply) {
            (None, None) => {}
            (Some(request), Some(reply)) if !request.is_empty() && !reply.is_empty() => {
                exchange = Some(Exchange::fixed(request, reply));
            }
            _ => return Err("--request and --reply go together and are not empty".into()),
        }
        match (connect, greeting) {
            (false, None) => {}
            (true, greeting) => exchange = Some(Exchange::connect(greeting.unwrap_or_default())),
            _ => return Err("--greeting goes with --connect".into()),
        }
        match (download, variety) {
            (None, None) => {}
            (Some(size), Some(count)) if size % 4 == 0 => {
                exchange = Some(Exchange::download(size, count));
            }
            _ => return Err("--download, in bytes divisible by 4, goes with --variety".into()),
        }
        let address = address.ok_or("no address: --tcp, --tls, --unix, --udp or --websocket")?;
        let exchange = exchange.ok_or("nothing to do: --echo, --request, --upload or another")?;
        if download.is_some() && !matches!(address, Address::Tcp(_) | Address::Unix(_)) {
            return Err("--download needs --tcp or --unix".into());
        }
        if invites && !matches!(address, Address::Tcp(_)) {
            return Err("--invite needs --tcp".into());
        }
        if (depth > 1) as u8 + invites as u8 + reconnect as u8 + idle as u8 > 1 {
            return Err("--pipeline, --reconnect, --idle and --invite do not go together".into());
        }
        let afterwards = match (reconnect, resume, idle) {
            _ if (reconnect || idle || invites || depth > 1) && !exchange.ends_with_an_answer() => {
                return Err("only an exchange with an answer can do that".into());
            }
            (false, false, false) => Afterwards::NextExchange,
            (true, _, false) if !matches!(address, Address::Tls(_)) => {
                return Err("--reconnect needs --tls".into());
            }
            (true, false, false) => Afterwards::NewSession,
            (true, true, false) => Afterwards::ResumedSession,
            (false, false, true) => Afterwards::Rest,
            _ => return Err("--resume goes with --reconnect".into()),
        };
        let purpose = match (afterwards, &server_pids[..]) {
            (Afterwards::Rest, &[server_pid]) => Purpose::Idle { server_pid },
            (Afterwards::Rest, _) => return Err("--idle needs --server-pid, once".into()),
            _ => Purpose::Load { warm_up, window },
        };
        let work = Work { address, tls_version, exchange, depth, afterwards };
        Ok(Self { work, connections, server_pids, invites, purpose })
    }
}

fn at_least_one(name: &str, value: OsString) -> Result<usize, String> {
    match number(name, value)? {
        0 => Err(format!("{name} needs at least one")),
        count => Ok(count),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: OsString) -> Result<T, String> {
    let text = value.to_string_lossy();
    text.parse().map_err(|_| format!("{name} does not take {text:?}"))
}
