//! `prepare-state`: hands a state directory to the user who will run the supervisor.
//!
//! Promises: says what changed hands; needs no settings and no supervisor.
//! Must never: be needed where the supervisor makes its directory itself.

use std::path::Path;

use super::{Done, ExitCode, Failure, Out};
use crate::port::store::{HandOver, HandOverError, LockError, Owner, hand_over};

pub(super) fn state(path: &Path, owner: Owner, out: &mut Out<'_>) -> Done {
    let place = path.display();
    let Owner { uid, gid } = owner;
    match hand_over(path, owner) {
        Ok(HandOver::Unchanged) => {
            out.line(&format!("{place} belongs to {uid}:{gid} already"));
            Ok(ExitCode::Ok)
        }
        Ok(HandOver::Done(count)) => {
            out.line(&format!(
                "{place} belongs to {uid}:{gid} now; {count} changed hands"
            ));
            Ok(ExitCode::Ok)
        }
        Err(error) => {
            let code = match &error {
                HandOverError::Lock(LockError::Held { .. }) => ExitCode::StateLocked,
                HandOverError::Lock(LockError::Io { .. })
                | HandOverError::Io { .. }
                | HandOverError::Foreign { .. } => ExitCode::StateUnusable,
            };
            Err(Failure::new(
                code,
                format!("{:#}", anyhow::Error::new(error)),
            ))
        }
    }
}

/// `UID:GID`, or `UID` for both.
pub(super) fn owner(text: &str) -> Result<Owner, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u32>()
            // The last one means "leave it as it is" to the system.
            .ok()
            .filter(|number| *number != u32::MAX)
            .ok_or_else(|| "not a user and a group by number, such as 65532:65532".to_owned())
    };
    Ok(Owner {
        uid: number(uid)?,
        gid: number(gid)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers() {
        let owned = |uid, gid| Ok(Owner { uid, gid });
        assert_eq!(owner("65532:0"), owned(65532, 0));
        assert_eq!(owner("7"), owned(7, 7));
        for text in ["", "adjutant", "1:", ":1", "1:2:3", "-1", "4294967295"] {
            let error = owner(text).unwrap_err();
            assert!(
                error.starts_with("not a user and a group by number"),
                "{text}: {error}"
            );
        }
    }
}
