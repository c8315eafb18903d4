//! The traits by which libraries read and write on any runtime: those of `futures-io`, and with the
//! feature `tokio` those of tokio, for types around one that has `poll_read`, `poll_write`,
//! `poll_write_vectored` and `end`.

/// Makes a type around such a one readable.
macro_rules! async_read {
    ($type:ty) => {
        impl futures_io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                buffer: &mut [u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                self.0.poll_read(context, buffer)
            }
        }

        #[cfg(feature = "tokio")]
        impl tokio::io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let count =
                    std::task::ready!(self.0.poll_read(context, buffer.initialize_unfilled()))?;
                buffer.advance(count);
                std::task::Poll::Ready(Ok(()))
            }
        }
    };
}

/// Makes a type around such a one writable. Nothing is kept back, so that there is nothing to flush.
macro_rules! async_write {
    ($type:ty) => {
        crate::io_traits::async_write!($type, futures_io::AsyncWrite, poll_close, {});
        #[cfg(feature = "tokio")]
        crate::io_traits::async_write!($type, tokio::io::AsyncWrite, poll_shutdown, {
            fn is_write_vectored(&self) -> bool {
                true
            }
        });
    };
    ($type:ty, $trait:path, $end:ident, { $($more:tt)* }) => {
        impl $trait for $type {
            $($more)*

            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                self.0.poll_write(context, bytes)
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                pieces: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                self.0.poll_write_vectored(context, pieces)
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Ready(Ok(()))
            }

            fn $end(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Ready(self.get_mut().0.end())
            }
        }
    };
}

pub(crate) use {async_read, async_write};
