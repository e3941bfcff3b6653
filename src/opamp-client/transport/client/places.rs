//! Which places are to be left alone for a while.
//!
//! Promises: a server that asked us to wait is not asked again before, by whatever way we come back to it, another path
//! or other headers included; a second lies between two moves, so that a server which alternates its
//! offers does not make us reconnect as fast as the network can.
//! Must never: grow; the place that is free soonest is forgotten first.

use std::time::Duration;

use tokio::time::Instant;

use super::Target;

/// The least span between two moves from one place to another.
const MOVE_GAP: Duration = Duration::from_secs(1);

/// Places that are remembered. Offers lead to few, and each needs an attempt of its own to get here.
const PLACES_MAX: usize = 8;

/// See the top of this file.
#[derive(Debug, Default)]
pub(super) struct Places {
    throttled: Vec<(Target, Instant)>,
    /// Where the last attempt went.
    dialled: Option<Target>,
    /// The next attempt goes elsewhere than the last one.
    moving: bool,
    moved_at: Option<Instant>,
}

impl Places {
    /// The server of the last attempt is overloaded.
    pub(super) fn throttle(&mut self, span: Duration) {
        let now = Instant::now();
        let (Some(place), Some(until)) = (self.dialled.clone(), now.checked_add(span)) else {
            return;
        };
        self.throttled
            .retain(|(old, until)| *until > now && !old.is_same_origin(&place));
        self.throttled.push((place, until));
        if self.throttled.len() > PLACES_MAX {
            self.throttled.sort_by_key(|(_, until)| *until);
            self.throttled.remove(0);
        }
    }

    /// How long the server there is still to be left alone.
    pub(super) fn held(&self, place: &Target) -> Duration {
        let held = self
            .throttled
            .iter()
            .find(|(old, _)| old.is_same_origin(place));
        held.map_or(Duration::ZERO, |(_, until)| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// The next attempt goes elsewhere; how long it has to wait for that alone.
    pub(super) fn move_on(&mut self) -> Duration {
        self.moving = true;
        self.moved_at.map_or(Duration::ZERO, |at| {
            (at + MOVE_GAP).saturating_duration_since(Instant::now())
        })
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self, place: Target) {
        self.dialled = Some(place);
        if std::mem::take(&mut self.moving) {
            self.moved_at = Some(Instant::now());
        }
    }

    /// Places that are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.throttled.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        url.parse().unwrap()
    }

    //
    #[tokio::test(start_paused = true)]
    async fn a_place_that_throttles_is_held_whatever_the_path_and_others_are_not() {
        let mut places = Places::default();
        let wait = Duration::from_mins(1);
        places.attempt(target("wss://fleet/a"));
        places.throttle(wait);
        assert_eq!(places.held(&target("wss://fleet/b")), wait);
        assert_eq!(places.held(&target("wss://other/a")), Duration::ZERO);
        tokio::time::advance(wait).await;
        assert_eq!(places.held(&target("wss://fleet/a")), Duration::ZERO);
        for port in 1..100 {
            places.attempt(target(&format!("wss://fleet:{port}")));
            places.throttle(wait);
        }
        assert_eq!(places.len(), PLACES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_lies_between_two_moves() {
        let mut places = Places::default();
        places.attempt(target("wss://fleet"));
        assert_eq!(places.move_on(), Duration::ZERO, "the first is free");
        places.attempt(target("wss://fleet"));
        assert_eq!(places.move_on(), MOVE_GAP);
        tokio::time::advance(MOVE_GAP / 4).await;
        assert_eq!(places.move_on(), MOVE_GAP * 3 / 4, "asking costs nothing");
        places.attempt(target("wss://fleet"));
        places.attempt(target("wss://fleet"));
        assert_eq!(places.move_on(), MOVE_GAP, "attempts are not moves");
    }
}
