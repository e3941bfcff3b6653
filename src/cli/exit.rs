//! The exit codes: one table, the same as in `docs/exit-codes.md`.
//!
//! Promises: a code never changes its meaning; a test compares this file with the document.
//! Must never: exit; `main` returns the code.

use super::Failure;
use crate::app::{AppError, AppErrorKind};
use crate::engine::message::{FailureClass, RegistrationFailure};
use crate::port::admin::client::ClientError;
use crate::port::bundle::BundleError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// What was asked for was done.
    Ok,
    /// It was not, for a reason that has no code of its own; `healthcheck`: unhealthy.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Another supervisor holds the state directory.
    StateLocked,
    /// The state directory cannot be used.
    StateUnusable,
    /// No supervisor answers.
    NoSupervisor,
    /// The supervisor refused the order.
    Refused,
    /// `run`: an agent was given up and the settings say to exit.
    GaveUp,
    /// `run`: stopping was forced; something was killed or left behind.
    Forced,
    /// `--wait`: the rollout did not commit, or the certificate was not renewed.
    NotApplied,
    /// An address of the settings cannot be listened on.
    Address,
    /// Registration: the registration token is not valid (401).
    TokenInvalid,
    /// Registration: the registration token may not do this (403).
    TokenForbidden,
    /// Registration: the service or the gateway is not known (404).
    NotKnown,
    /// Registration: the service does not take what was sent (400, 422).
    NotTaken,
    /// Registration: the service cannot be reached.
    Unreachable,
    /// Registration: the service is in trouble or is asked too often (5xx, 429).
    ServiceTrouble,
    /// Registration: the service answered something unusable.
    BadAnswer,
    /// The settings, or the bundle to be checked, are not acceptable.
    Settings,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 19] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::StateLocked,
        Self::StateUnusable,
        Self::NoSupervisor,
        Self::Refused,
        Self::GaveUp,
        Self::Forced,
        Self::NotApplied,
        Self::Address,
        Self::TokenInvalid,
        Self::TokenForbidden,
        Self::NotKnown,
        Self::NotTaken,
        Self::Unreachable,
        Self::ServiceTrouble,
        Self::BadAnswer,
        Self::Settings,
    ];

    /// The number the shell sees. 101 is not here: it is what Rust exits with after a panic, which is always our
    /// mistake.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::StateLocked => 4,
            Self::StateUnusable => 5,
            Self::NoSupervisor => 6,
            Self::Refused => 7,
            Self::GaveUp => 8,
            Self::Forced => 9,
            Self::NotApplied => 10,
            Self::Address => 11,
            Self::TokenInvalid => 20,
            Self::TokenForbidden => 21,
            Self::NotKnown => 22,
            Self::NotTaken => 23,
            Self::Unreachable => 24,
            Self::ServiceTrouble => 25,
            Self::BadAnswer => 26,
            // EX_CONFIG of sysexits.h, as other agents use it.
            Self::Settings => 78,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let code = match error.kind {
            AppErrorKind::Settings => ExitCode::Settings,
            AppErrorKind::StateLocked => ExitCode::StateLocked,
            AppErrorKind::StateUnusable => ExitCode::StateUnusable,
            AppErrorKind::Address => ExitCode::Address,
            AppErrorKind::System => ExitCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let chain = |error: ClientError| format!("{:#}", anyhow::Error::new(error));
        match &error {
            ClientError::Nobody { .. } => Self::new(
                ExitCode::NoSupervisor,
                format!(
                    "{}; start one with `adjutant run`, or name its settings by --config or its state by --state-dir",
                    chain(error)
                ),
            ),
            ClientError::Denied { .. } => Self::new(ExitCode::Refused, chain(error)),
            ClientError::Refused { kind, reason } if kind == "unresponsive" => Self::new(
                ExitCode::Failed,
                format!("the supervisor is there, but {reason}"),
            ),
            ClientError::Refused { reason, .. } => {
                Self::new(ExitCode::Refused, format!("refused: {reason}"))
            }
            ClientError::Broken { .. } => Self::new(ExitCode::Failed, chain(error)),
            ClientError::Address { .. } => Self::new(ExitCode::Usage, chain(error)),
        }
    }
}

impl From<RegistrationFailure> for Failure {
    fn from(failure: RegistrationFailure) -> Self {
        let code = match failure.class {
            FailureClass::Settings => ExitCode::Settings,
            FailureClass::Network => ExitCode::Unreachable,
            FailureClass::Throttled | FailureClass::Server => ExitCode::ServiceTrouble,
            FailureClass::Unauthorized => ExitCode::TokenInvalid,
            FailureClass::Forbidden => ExitCode::TokenForbidden,
            FailureClass::NotFound => ExitCode::NotKnown,
            FailureClass::Invalid => ExitCode::NotTaken,
            FailureClass::Answer => ExitCode::BadAnswer,
        };
        // The other reasons say it themselves.
        let what_to_do = match failure.class {
            FailureClass::Network => "; check registration.url and the way there, then try again",
            FailureClass::Throttled | FailureClass::Server => "; try again later",
            _ => "",
        };
        Self::new(code, format!("{}{what_to_do}", failure.reason))
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        let code = match &error {
            BundleError::Read { .. } => ExitCode::Failed,
            BundleError::Kind { .. }
            | BundleError::Name { .. }
            | BundleError::Limit { .. }
            | BundleError::Empty { .. } => ExitCode::Settings,
        };
        Self::new(code, format!("{:#}", anyhow::Error::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_its_document_agree() {
        let document = include_str!("../../docs/exit-codes.md");
        let documented: Vec<u8> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| "))
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect();
        let mut wanted: Vec<u8> = ExitCode::ALL.map(ExitCode::number).to_vec();
        wanted.push(101);
        assert_eq!(documented, wanted);
    }

    #[test]
    fn every_code_has_a_number_of_its_own() {
        let mut numbers = ExitCode::ALL.map(ExitCode::number).to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ExitCode::ALL.len());
    }
}
