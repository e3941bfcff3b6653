//! The pump of a polled server: frames go out one by one, each as a request whose answer is the next incoming frame.
//!
//! Promises: one request is out at a time; frames that come meanwhile wait, bounded; after the last sender is
//! gone what is queued still goes out, within the closing deadline.
//! Must never: decide when to poll; whoever queues the frames does.

use std::collections::VecDeque;
use std::pin::pin;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::exchange::Exchanger;
use super::pump::{CODE_NORMAL, Closed, ClosedBy, Outgoing, PumpConfig, QUEUE};

/// The end that we want, and when it comes at the latest.
struct Leaving {
    closed: Closed,
    by: Instant,
}

pub(super) async fn run(
    mut exchanger: Exchanger,
    config: PumpConfig,
    mut outgoing: mpsc::Receiver<Outgoing>,
    incoming: mpsc::Sender<Vec<u8>>,
) -> Closed {
    let leave = |code, reason: &str| Leaving {
        closed: Closed::new(ClosedBy::Us, code, reason),
        by: Instant::now() + config.close_timeout,
    };
    let mut waiting = VecDeque::new();
    let mut leaving: Option<Leaving> = None;
    loop {
        let Some(frame) = waiting.pop_front() else {
            if let Some(leaving) = leaving {
                return leaving.closed;
            }
            let asked = tokio::select! {
                asked = outgoing.recv() => asked,
                () = exchanger.idle() => continue,
            };
            match asked {
                Some(Outgoing::Frame(frame)) => waiting.push_back(frame),
                Some(Outgoing::Close { code, reason }) => leaving = Some(leave(code, &reason)),
                None => leaving = Some(leave(CODE_NORMAL, "")),
            }
            continue;
        };
        let mut exchange = pin!(exchanger.exchange(&frame, config));
        let answer = loop {
            let by = leaving.as_ref().map(|leaving| leaving.by);
            tokio::select! {
                answer = &mut exchange => break answer,
                asked = outgoing.recv(), if by.is_none() && waiting.len() < QUEUE => match asked {
                    Some(Outgoing::Frame(frame)) => waiting.push_back(frame),
                    Some(Outgoing::Close { code, reason }) => leaving = Some(leave(code, &reason)),
                    None => leaving = Some(leave(CODE_NORMAL, "")),
                },
                () = until(by) => {
                    break Err(Closed::new(ClosedBy::Us, CODE_NORMAL, "the server did not answer the goodbye"));
                }
            }
        };
        match answer {
            Ok(frame) => {
                if incoming.send(frame).await.is_err() {
                    return leave(CODE_NORMAL, "").closed;
                }
            }
            Err(closed) => return closed,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
