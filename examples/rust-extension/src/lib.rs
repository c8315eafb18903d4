//! An extension module whose functions are awaited on the loop that Python runs.
//!
//! ```python
//! import rust_extension, velodrome
//!
//! async def main():
//!     await rust_extension.sleep(0.1)
//!     print(await rust_extension.exchange("127.0.0.1:8000", b"GET / HTTP/1.0\r\n\r\n"))
//!
//! velodrome.run(main())
//! ```

mod probes;

use std::{net::SocketAddr, time::Duration};

use pyo3::prelude::*;
use velodrome_asyncio::future_into_py;

#[pymodule]
mod rust_extension {
    use super::*;

    /// Waits for a timer of the loop's; returns the seconds.
    #[pyfunction]
    fn sleep(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            velodrome::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(seconds)
        })
    }

    /// Sends a message to a TCP server, and returns all that it answers until it closes.
    #[pyfunction]
    fn exchange(py: Python<'_>, address: String, message: Vec<u8>) -> PyResult<Bound<'_, PyAny>> {
        let address: SocketAddr = address.parse()?;
        future_into_py(py, async move { Ok(super::exchange(address, &message).await?) })
    }

    #[pymodule_export]
    use super::probes::probes;
}

async fn exchange(address: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let stream = velodrome::TcpStream::connect(address).await?;
    stream.write_all(message).await?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(answer),
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
}
