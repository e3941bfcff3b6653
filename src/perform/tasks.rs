//! The tasks of the shell: every one is owned here, and its end, even by panic, is an event.
//!
//! Must never: leave a task detached.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{AbortHandle, Id, JoinSet};

use crate::engine::message::Event;

/// The reason of a task that we aborted.
pub(super) const CANCELLED: &str = "cancelled";

/// What stands for the answer of a task that ended without one.
type Lost = Box<dyn FnOnce(&str) -> Option<Event>>;

/// The tasks of the program.
#[derive(Default)]
pub(crate) struct Tasks {
    set: JoinSet<Option<Event>>,
    lost: HashMap<Id, Lost>,
}

impl Tasks {
    /// Starts a task on this thread. `lost` makes the answer when it ends by panic or abort.
    pub(crate) fn spawn(
        &mut self,
        task: impl Future<Output = Option<Event>> + 'static,
        lost: impl FnOnce(&str) -> Option<Event> + 'static,
    ) -> AbortHandle {
        let handle = self.set.spawn_local(task);
        self.lost.insert(handle.id(), Box::new(lost));
        handle
    }

    /// Starts a task that serves until the program ends. Without it the others go on.
    pub(crate) fn serve(
        &mut self,
        what: &'static str,
        task: impl Future<Output = String> + 'static,
    ) -> AbortHandle {
        let ended = move |reason: &str| {
            tracing::error!(task = what, error = reason, "task ended before the program");
            None
        };
        self.spawn(async move { ended(&task.await) }, ended)
    }

    pub(super) fn abort_silently(&mut self, task: &AbortHandle) {
        self.lost.remove(&task.id());
        task.abort();
    }

    /// Waits for the next end of a task; for ever when there is none.
    ///
    /// # Cancel safety
    /// An end that was not returned is returned by the next call.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self.set.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, event))) => {
                self.lost.remove(&id);
                event
            }
            Some(Err(error)) => {
                let lost = self.lost.remove(&error.id())?;
                if error.is_cancelled() {
                    lost(CANCELLED)
                } else {
                    lost("its task panicked")
                }
            }
        }
    }
}
