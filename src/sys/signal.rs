//! The signals that are meant for the host, as a stream.
//!
//! Promises: registers TERM, INT and HUP once, before anything is started, and hands each on as it comes. Equal signals
//! that arrive while nobody reads are one, as the kernel has it.
//! Must never: decide what a second TERM means (the engine does) and never block or ignore a signal: both would be
//! inherited by children.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that was caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// TERM or INT.
    Terminate,
    /// HUP.
    Hangup,
}

/// The registered signals.
#[derive(Debug)]
pub struct HostSignals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl HostSignals {
    /// Registers the signals; from here on they no longer end the process. Needs a running runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. TERM and INT come before HUP when several wait.
    ///
    /// # Cancel safety
    /// A signal that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Caught {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Caught> {
        let Self { term, int, hup } = self;
        for (signal, caught) in [
            (term, Caught::Terminate),
            (int, Caught::Terminate),
            (hup, Caught::Hangup),
        ] {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(caught);
            }
        }
        Poll::Pending
    }
}
