//! What one operation sends and what must come back.

use crate::websocket;

/// Consecutive echoes start at different offsets of one pattern, so bytes of an earlier message never pass for this one's.
/// A prime, so that the offsets do not fall into step with buffer sizes.
const OFFSETS: usize = 4093;

/// How many different messages there are where they are not cut from one pattern. A prime, likewise.
const VARIETY: usize = 251;

pub enum Exchange {
    Echo {
        pattern: Vec<u8>,
        size: usize,
    },
    /// Requests and their replies, over and over.
    Prepared {
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// The server says this and closes the connection.
    Connect {
        greeting: Vec<u8>,
    },
    /// Messages one after the other, none waiting for an answer; the last byte of every `stride`-th comes back.
    Upload {
        pattern: Vec<u8>,
        size: usize,
        stride: usize,
    },
    /// The server sends messages of `size` bytes without being asked, whose bytes are `cycle` over and over.
    Download {
        cycle: Vec<u8>,
        size: usize,
    },
}

impl Exchange {
    pub fn echo(size: usize) -> Self {
        Self::Echo { pattern: pattern(size), size }
    }

    pub fn upload(size: usize, stride: usize) -> Self {
        Self::Upload { pattern: pattern(size), size, stride }
    }

    pub fn fixed(request: Vec<u8>, reply: Vec<u8>) -> Self {
        Self::Prepared { pairs: vec![(request, reply)] }
    }

    /// An echo whose messages are lines of `size` bytes.
    pub fn lines(size: usize) -> Self {
        let pattern = pattern(size);
        let line = |start: usize| {
            let letters = pattern[start..][..size - 1].iter().map(|byte| b'a' + byte % 26);
            letters.chain([b'\n']).collect::<Vec<u8>>()
        };
        Self::Prepared { pairs: (0..VARIETY).map(|start| (line(start), line(start))).collect() }
    }

    /// An echo whose messages are WebSocket's, binary ones of `size` bytes.
    pub fn frames(size: usize) -> Self {
        let pattern = pattern(size);
        let pair = |start: usize| {
            let payload = &pattern[start..][..size];
            (websocket::frame(payload, Some(websocket::MASK)), websocket::frame(payload, None))
        };
        Self::Prepared { pairs: (0..VARIETY).map(pair).collect() }
    }

    /// Messages of `size` bytes, `count` different ones, which together are the numbers from zero, four bytes each.
    pub fn download(size: usize, count: usize) -> Self {
        let numbers = 0..(size * count / 4) as u32;
        Self::Download { cycle: numbers.flat_map(u32::to_le_bytes).collect(), size }
    }

    pub fn connect(greeting: Vec<u8>) -> Self {
        Self::Connect { greeting }
    }

    pub fn ends_with_an_answer(&self) -> bool {
        matches!(self, Self::Echo { .. } | Self::Prepared { .. })
    }

    pub fn request(&self, sequence: usize) -> &[u8] {
        match self {
            Self::Echo { pattern, size } | Self::Upload { pattern, size, .. } => {
                &pattern[sequence % OFFSETS..][..*size]
            }
            Self::Prepared { pairs } => &pairs[sequence % pairs.len()].0,
            Self::Connect { .. } | Self::Download { .. } => &[],
        }
    }

    pub fn reply(&self, sequence: usize) -> &[u8] {
        match self {
            Self::Echo { .. } => self.request(sequence),
            Self::Prepared { pairs } => &pairs[sequence % pairs.len()].1,
            Self::Connect { greeting } => greeting,
            Self::Upload { .. } | Self::Download { .. } => &[],
        }
    }
}

fn pattern(size: usize) -> Vec<u8> {
    // xorshift64: any sequence without a short period will do.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size + OFFSETS)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Exchange;

    #[test]
    fn consecutive_echoes_differ_in_the_first_bytes() {
        let exchange = Exchange::echo(64);
        for sequence in 0..10_000 {
            let (this, next) = (exchange.request(sequence), exchange.request(sequence + 1));
            assert_eq!(this.len(), 64);
            assert_ne!(this[..16], next[..16], "at {sequence}");
        }
    }

    #[test]
    fn a_line_ends_where_its_newline_is() {
        let exchange = Exchange::lines(64);
        for sequence in 0..1000 {
            let (this, next) = (exchange.request(sequence), exchange.request(sequence + 1));
            assert_eq!(this.iter().position(|&byte| byte == b'\n'), Some(63));
            assert_eq!(this, exchange.reply(sequence));
            assert_ne!(this[..16], next[..16], "at {sequence}");
        }
    }
}
