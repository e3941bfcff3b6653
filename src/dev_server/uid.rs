//! An agent's instance uid: sixteen bytes on the wire, a UUID on paper.
//!
//! Must never: accept another length or all zeros.

use std::fmt;
use std::str::FromStr;

use uuid::{Builder, Uuid};

use crate::units::WallTime;

/// The instance uid of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Uid(Uuid);

impl Uid {
    /// Reads the wire form; `None` unless it is sixteen bytes, not all zero.
    pub(super) fn from_wire(bytes: &[u8]) -> Option<Self> {
        let uuid = Uuid::from_slice(bytes).ok()?;
        (!uuid.is_nil()).then_some(Self(uuid))
    }

    /// Makes a fresh UUID of version 7.
    pub(super) fn fresh(now: WallTime, random: [u8; 10]) -> Self {
        Self(Builder::from_unix_timestamp_millis(now.unix_millis(), &random).into_uuid())
    }

    /// The wire form.
    pub(super) fn to_wire(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for Uid {
    type Err = NotUid;

    fn from_str(text: &str) -> Result<Self, NotUid> {
        let uuid = Uuid::try_parse(text).map_err(|_| NotUid)?;
        Self::from_wire(uuid.as_bytes()).ok_or(NotUid)
    }
}

/// Text that is not an instance uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance uid is a UUID other than zero, such as 0190a5c2-7b1e-7c3d-9f00-2a6b1c4d5e6f")]
pub(super) struct NotUid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_sixteen_bytes_and_not_zero() {
        let cases: [(&[u8], bool); 4] = [
            (&[7; 16], true),
            (&[0; 16], false),
            (&[7; 15], false),
            (&[], false),
        ];
        for (bytes, good) in cases {
            assert_eq!(Uid::from_wire(bytes).is_some(), good, "{bytes:?}");
        }
    }

    #[test]
    fn uids_print_the_way_they_parse() {
        let uid = Uid::fresh(WallTime::from_unix_millis(1_760_000_000_000), [9; 10]);
        assert_eq!(uid.to_string().parse(), Ok(uid));
        assert_eq!(uid.to_string().replace('-', "").parse(), Ok(uid));
        assert_eq!(Uid::from_wire(&uid.to_wire()), Some(uid));
        assert_eq!(uid.to_string().as_bytes()[14], b'7', "version 7: {uid}");
        for bad in ["", "x", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(bad.parse::<Uid>(), Err(NotUid), "{bad}");
        }
    }
}
