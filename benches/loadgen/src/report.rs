//! What one run found, as a line of JSON.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was completed in a stretch of time.
#[derive(Default)]
pub struct Tally {
    pub operations: usize,
    /// In order of completion, of the operations that have a latency.
    pub latencies_ns: Vec<u64>,
}

pub struct Report {
    pub tally: Tally,
    /// On the clock that other programs write beside what they see.
    pub began: SystemTime,
    pub elapsed: Duration,
    /// Of each server.
    pub server_cpu: Vec<Duration>,
    pub own_cpu: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.tally.latencies_ns.clone();
        sorted.sort_unstable();
        write!(
            out,
            r#"{{"operations": {}, "began_at": {:.6}, "seconds": {:.9}, "load_cpu_seconds": {:.9}"#,
            self.tally.operations,
            self.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            self.elapsed.as_secs_f64(),
            self.own_cpu.as_secs_f64()
        )?;
        if let Some(least) = self.server_cpu.iter().min() {
            let total: Duration = self.server_cpu.iter().sum();
            write!(
                out,
                r#", "server_cpu_seconds": {:.9}, "least_server_cpu_seconds": {:.9}"#,
                total.as_secs_f64(),
                least.as_secs_f64()
            )?;
        }
        for (name, fraction) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(nanoseconds) = quantile(&sorted, fraction) {
                write!(out, r#", "latency_{name}_us": {:.3}"#, nanoseconds as f64 / 1e3)?;
            }
        }
        write!(out, "}}")
    }
}

/// What open connections cost the server in memory.
pub struct Footprint {
    pub connections: usize,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

impl fmt::Display for Footprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            r#"{{"connections": {}, "server_bytes_before": {}, "server_bytes_after": {}}}"#,
            self.connections, self.bytes_before, self.bytes_after
        )
    }
}

/// The smallest value that at least `fraction` of the sorted values do not exceed.
fn quantile(sorted: &[u64], fraction: f64) -> Option<u64> {
    let rank = (fraction * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&values, 0.5), Some(50));
        assert_eq!(quantile(&values, 0.99), Some(99));
        assert_eq!(quantile(&values, 1.0), Some(100));
        assert_eq!(quantile(&[7], 0.5), Some(7));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
