//! Child processes.
//!
//! A child's end is told by a descriptor of the process (pidfd), or where there is none by a thread that
//! waits for it. Nobody waits for any child but this one, and nobody needs SIGCHLD.

use std::{
    ffi::OsStr,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::pin,
    process::{self, ExitStatus, Output, Stdio},
    task::Poll,
    thread,
};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::{
    async_fd::{Async, Direction},
    pipe_ends::{PipeReader, PipeWriter},
};

/// Says how to start a child: `std::process::Command`, whose children are waited for by the loop.
///
/// ```
/// # velodrome::run(async {
/// let output = velodrome::Command::new("echo").arg("hello").output().await?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct Command(process::Command);

impl From<process::Command> for Command {
    fn from(command: process::Command) -> Self {
        Command(command)
    }
}

impl Command {
    /// A command that starts `program` without arguments; the standard streams are those of this process.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command(process::Command::new(program))
    }

    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.0.arg(argument);
        self
    }

    /// ```
    /// # velodrome::run(async {
    /// use std::process::Stdio;
    /// use velodrome::Command;
    ///
    /// let mut shell = Command::new("sh");
    /// shell.args(["-c", "cat; echo $NAME; pwd; exit 3"]).env("NAME", "value").current_dir("/");
    /// shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    /// // What has no method here.
    /// shell.as_std_mut().env_remove("HOME");
    /// let output = shell.spawn()?.communicate(b"").await?;
    /// assert_eq!(output.stdout, b"value\n/\n");
    /// assert_eq!(output.status.code(), Some(3));
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.0.args(arguments);
        self
    }

    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.env(name, value);
        self
    }

    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.0.current_dir(directory);
        self
    }

    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.0.stdin(stdin);
        self
    }

    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.0.stdout(stdout);
        self
    }

    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.0.stderr(stderr);
        self
    }

    /// All that the standard library's has.
    pub fn as_std_mut(&mut self) -> &mut process::Command {
        &mut self.0
    }

    /// Starts a child. Blocks until it has begun, as in every language.
    pub fn spawn(&mut self) -> io::Result<Child> {
        Child::new(self.0.spawn()?)
    }

    /// Starts a child with nothing to read, and waits for its end and for all that it writes.
    pub async fn output(&mut self) -> io::Result<Output> {
        self.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn()?.communicate(&[]).await
    }
}

/// A child process, as `asyncio.subprocess.Process`.
///
/// Dropping it kills the child if it still runs.
///
/// ```
/// # velodrome::run(async {
/// use std::process::Stdio;
///
/// let mut cat = velodrome::Command::new("cat");
/// let child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
/// let output = child.communicate(b"hello").await?;
/// assert!(output.status.success());
/// assert_eq!(output.stdout, b"hello");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct Child {
    /// `None` only while it is dropped, and after `into_std`.
    child: Option<process::Child>,
    /// Readable once the child has ended.
    ended: Option<Async<OwnedFd>>,
    /// What is there to be written, if that is [`Stdio::piped`].
    pub stdin: Option<PipeWriter>,
    pub stdout: Option<PipeReader>,
    pub stderr: Option<PipeReader>,
}

impl Child {
    fn new(child: process::Child) -> io::Result<Self> {
        // From now on an error kills it.
        let mut this =
            Child { child: Some(child), ended: None, stdin: None, stdout: None, stderr: None };
        let child = this.std_mut();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pid = Pid::from_child(child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).or_else(|_| told_by_thread(pid))?;
        this.ended = Some(Async::new(ended)?);
        this.stdin = stdin.map(PipeWriter::new).transpose()?;
        this.stdout = stdout.map(PipeReader::new).transpose()?;
        this.stderr = stderr.map(PipeReader::new).transpose()?;
        Ok(this)
    }

    fn std_mut(&mut self) -> &mut process::Child {
        self.child.as_mut().expect("it is there until it is dropped")
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it is there until it is dropped").id()
    }

    /// Ends it by SIGKILL. Nothing if it has been waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        self.std_mut().kill()
    }

    /// Sends it a signal. Nothing if it has been waited for.
    pub fn send_signal(&mut self, signal: rustix::process::Signal) -> io::Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        // Not waited for: the number is still this child's.
        Ok(rustix::process::kill_process(Pid::from_child(self.std_mut()), signal)?)
    }

    /// How it has ended, if it has.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::os::unix::process::ExitStatusExt;
    /// use velodrome::{Command, Signal};
    ///
    /// let mut child = Command::new("sleep").arg("60").spawn()?;
    /// assert!(child.id() > 0);
    /// assert_eq!(child.try_wait()?, None);
    /// child.send_signal(Signal::TERM)?;
    /// assert_eq!(child.wait().await?.signal(), Some(Signal::TERM.as_raw()));
    ///
    /// let mut child = Command::new("sleep").arg("60").spawn()?;
    /// child.kill()?;
    /// assert!(!child.wait().await?.success());
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.std_mut().try_wait()
    }

    /// Waits for the end. Closes `stdin` first, for which the child may wait.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            let ended = self.ended.as_ref().expect("it is there from the start");
            ended.not_ready(Direction::Read);
            ended.readable().await;
        }
    }

    /// Writes `input` to `stdin`, and waits for the end and for all that comes from `stdout` and `stderr`.
    /// Streams that are not pipes are left out.
    pub async fn communicate(mut self, input: &[u8]) -> io::Result<Output> {
        let (stdin, stdout, stderr) = (self.stdin.take(), self.stdout.take(), self.stderr.take());
        let writing = async move {
            let Some(stdin) = stdin else { return Ok(Vec::new()) };
            match stdin.write_all(input).await {
                // It may have heard enough.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(Vec::new()),
            }
        };
        let [_, stdout, stderr] =
            all([&mut pin!(writing), &mut pin!(read_all(stdout)), &mut pin!(read_all(stderr))])
                .await?;
        Ok(Output { status: self.wait().await?, stdout, stderr })
    }

    /// Lets it run by itself. Its pipes are closed.
    ///
    /// ```
    /// # velodrome::run(async {
    /// let child = velodrome::Command::new("true").spawn()?;
    /// let mut child: std::process::Child = child.into_std();
    /// assert!(child.wait()?.success());
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn into_std(mut self) -> process::Child {
        self.child.take().expect("it is there until it is dropped")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may be gone.
        let _ = child.kill();
        if matches!(child.try_wait(), Ok(None)) {
            // It is about to end; the loop does not wait for that.
            thread::spawn(move || child.wait());
        }
    }
}

/// A descriptor that hangs up when the child has ended, for want of a pidfd.
fn told_by_thread(pid: Pid) -> rustix::io::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    thread::Builder::new()
        .name("velodrome_wait".into())
        .spawn(move || {
            // Leaves the end where it is, for whoever has the child.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
            drop(writer);
        })
        .map_err(|_| rustix::io::Errno::AGAIN)?;
    Ok(reader)
}

async fn read_all(reader: Option<PipeReader>) -> io::Result<Vec<u8>> {
    match reader {
        Some(reader) => reader.read_to_end().await,
        None => Ok(Vec::new()),
    }
}

type Part<'a> = &'a mut (dyn Future<Output = io::Result<Vec<u8>>> + Unpin);

/// The outputs of all, or the first error.
async fn all<const N: usize>(mut parts: [Part<'_>; N]) -> io::Result<[Vec<u8>; N]> {
    let mut outputs = [const { None }; N];
    poll_fn(|context| {
        for (part, output) in parts.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(ended) = std::pin::Pin::new(part).poll(context)
            {
                *output = Some(ended?);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
    .map(|()| outputs.map(Option::unwrap_or_default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pidfd_a_thread_tells_of_the_end_and_leaves_the_status() {
        crate::run(async {
            let mut child = process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
            let ended = Async::new(told_by_thread(Pid::from_child(&child)).unwrap()).unwrap();
            ended.not_ready(Direction::Read);
            ended.readable().await;
            assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        })
        .unwrap();
    }
}
