//! Where the records of a stream of ciphertext end.
//!
//! Only headers are looked at: type, version, length (RFC 8446, 5.1). What is not a record ends
//! the search: from there on everything counts as complete, and libssl says what is wrong.

const HEADER_BYTES: usize = 5;

/// A record holds at most so much: 2^14, and what libssl lets encryption add.
const MAX_BODY_BYTES: usize = (1 << 14) + 320;

#[derive(Debug, Default)]
pub struct Records {
    /// The header that is being collected.
    header: [u8; HEADER_BYTES],
    /// How much of the record that is under way has come, header included.
    incomplete_bytes: usize,
    /// How much of its body is missing, once the header is complete.
    missing_bytes: usize,
    /// It is not TLS.
    lost: bool,
}

/// What a piece of the stream has completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    pub records: usize,
    /// The sum of their bodies.
    pub body_bytes: usize,
}

impl std::ops::Add for Completed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Completed {
            records: self.records + other.records,
            body_bytes: self.body_bytes + other.body_bytes,
        }
    }
}

impl Records {
    /// How many of the bytes so far belong to a record whose end is still to come.
    #[inline]
    pub fn incomplete_bytes(&self) -> usize {
        self.incomplete_bytes
    }

    /// The next piece of the stream.
    pub fn scan(&mut self, mut piece: &[u8]) -> Completed {
        let mut completed = Completed::default();
        while !piece.is_empty() && !self.lost {
            if self.incomplete_bytes < HEADER_BYTES {
                let count = (HEADER_BYTES - self.incomplete_bytes).min(piece.len());
                self.header[self.incomplete_bytes..][..count].copy_from_slice(&piece[..count]);
                self.incomplete_bytes += count;
                piece = &piece[count..];
                if self.incomplete_bytes < HEADER_BYTES {
                    break;
                }
                let [kind, major, _, high, low] = self.header;
                self.missing_bytes = usize::from(u16::from_be_bytes([high, low]));
                if !(20..=24).contains(&kind) || major != 3 || self.missing_bytes > MAX_BODY_BYTES {
                    self.lost = true;
                    self.incomplete_bytes = 0;
                    break;
                }
            }
            let count = self.missing_bytes.min(piece.len());
            self.missing_bytes -= count;
            self.incomplete_bytes += count;
            piece = &piece[count..];
            if self.missing_bytes == 0 {
                completed.records += 1;
                completed.body_bytes += self.incomplete_bytes - HEADER_BYTES;
                self.incomplete_bytes = 0;
            }
        }
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(len: u16) -> Vec<u8> {
        let mut record = vec![23, 3, 3];
        record.extend_from_slice(&len.to_be_bytes());
        record.resize(HEADER_BYTES + usize::from(len), 0);
        record
    }

    #[test]
    fn records_are_counted_wherever_the_stream_is_cut() {
        let stream = [record(1), record(0), record(300), record(16384 + 256)].concat();
        for step in [1, 2, 4, 5, 6, 7, 100, stream.len()] {
            let mut records = Records::default();
            let mut sum = Completed::default();
            for piece in stream.chunks(step) {
                sum = sum + records.scan(piece);
            }
            assert_eq!(sum, Completed { records: 4, body_bytes: 1 + 300 + 16384 + 256 });
            assert_eq!(records.incomplete_bytes(), 0);
        }
    }

    #[test]
    fn a_record_that_is_under_way_is_incomplete() {
        let mut records = Records::default();
        assert_eq!(records.scan(&record(10)[..7]), Completed::default());
        assert_eq!(records.incomplete_bytes(), 7);
        assert_eq!(records.scan(&[0; 8]), Completed { records: 1, body_bytes: 10 });
        assert_eq!(records.incomplete_bytes(), 0);
    }

    #[test]
    fn what_is_not_a_record_is_complete_at_once() {
        for stream in [&b"GET / HTTP/1.1\r\n"[..], &[23, 3, 3, 0xff, 0xff, 0], &[23, 2, 0, 0, 1]] {
            let mut records = Records::default();
            records.scan(stream);
            assert_eq!(records.incomplete_bytes(), 0);
            records.scan(&[0; 100]);
            assert_eq!(records.incomplete_bytes(), 0);
        }
    }
}
