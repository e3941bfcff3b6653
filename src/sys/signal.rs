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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Set in the process that is alone with its signals.
    const ALONE: &str = "ADJUTANT_TEST_SIGNALS_ALONE";

    #[test]
    fn each_signal_comes_as_what_it_means_to_the_host() {
        if std::env::var_os(ALONE).is_none() {
            let name = "sys::signal::tests::each_signal_comes_as_what_it_means_to_the_host";
            let output = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let passed = output.status.success() && text.contains("1 passed");
            assert!(passed, "{text}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut signals = HostSignals::new().unwrap();
            for (number, wanted) in [
                ("TERM", Caught::Terminate),
                ("INT", Caught::Terminate),
                ("HUP", Caught::Hangup),
                ("TERM", Caught::Terminate),
            ] {
                let own = std::process::id().to_string();
                let sent = Command::new("kill").args(["-s", number, &own]).status();
                assert!(sent.unwrap().success());
                let caught = tokio::time::timeout(Duration::from_secs(20), signals.next()).await;
                assert_eq!(caught, Ok(wanted), "{number}");
            }
        });
    }
}
