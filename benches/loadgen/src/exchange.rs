//! What one operation sends and what must come back.

/// Consecutive echoes start at different offsets of one pattern, so bytes of an earlier message never pass for this one's.
/// A prime, so that the offsets do not fall into step with buffer sizes.
const OFFSETS: usize = 4093;

pub enum Exchange {
    Echo {
        pattern: Vec<u8>,
        size: usize,
    },
    Fixed {
        request: Vec<u8>,
        reply: Vec<u8>,
    },
    Connect,
    /// Messages one after the other, none waiting for an answer; the last byte of every `stride`-th comes back.
    Upload {
        pattern: Vec<u8>,
        size: usize,
        stride: usize,
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
        Self::Fixed { request, reply }
    }

    pub fn connect() -> Self {
        Self::Connect
    }

    pub fn ends_with_an_answer(&self) -> bool {
        matches!(self, Self::Echo { .. } | Self::Fixed { .. })
    }

    pub fn request(&self, sequence: usize) -> &[u8] {
        match self {
            Self::Echo { pattern, size } | Self::Upload { pattern, size, .. } => {
                &pattern[sequence % OFFSETS..][..*size]
            }
            Self::Fixed { request, .. } => request,
            Self::Connect => &[],
        }
    }

    pub fn reply(&self, sequence: usize) -> &[u8] {
        match self {
            Self::Echo { .. } => self.request(sequence),
            Self::Fixed { reply, .. } => reply,
            Self::Connect | Self::Upload { .. } => &[],
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
}
