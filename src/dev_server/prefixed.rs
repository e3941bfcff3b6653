//! A stream whose first bytes were already read, to see who is calling.
//!
//! Promises: the reader sees exactly the bytes that the peer sent, in order.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The stream `inner` with `prefix` put back in front.
#[derive(Debug)]
pub(super) struct Prefixed<S> {
    prefix: BytesMut,
    inner: S,
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads the head of the first HTTP request, to the empty line or to `max` bytes or to the end of the stream.
    ///
    /// # Errors
    /// The stream's own.
    pub(super) async fn read_head(mut inner: S, max: usize) -> io::Result<Self> {
        let mut prefix = BytesMut::with_capacity(1024);
        loop {
            let ended = prefix.windows(4).any(|four| four == b"\r\n\r\n");
            if ended || prefix.len() >= max || inner.read_buf(&mut prefix).await? == 0 {
                return Ok(Self { prefix, inner });
            }
        }
    }

    /// What was read.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_whatever_the_split() {
        let sent = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nand a body that follows";
        for split in 0..sent.len() {
            let (near, mut far) = tokio::io::duplex(sent.len());
            let (first, second) = sent.split_at(split);
            let write = async {
                far.write_all(first).await.expect("writes");
                tokio::task::yield_now().await;
                far.write_all(second).await.expect("writes");
                drop(far);
            };
            let read = async {
                let mut stream = Prefixed::read_head(near, 4096).await.expect("reads");
                assert!(stream.prefix().windows(4).any(|four| four == b"\r\n\r\n"));
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.expect("reads");
                all
            };
            let ((), all) = tokio::join!(write, read);
            assert_eq!(all, sent, "split at {split}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_stops_at_the_limit() {
        let endless = tokio::io::repeat(b'x');
        let stream = Prefixed::read_head(endless, 1000).await.expect("reads");
        assert!((1000..10_000).contains(&stream.prefix().len()));
    }
}
