//! A registration without a supervisor: the same machine, driven by hand on the state directory under its lock.
//!
//! Promises: decides nothing that the engine decides; the token is on disk when this returns. A supervisor that holds
//! the lock is left alone.
//! Must never: start or touch a child.

use super::start::unusable;
use super::{AppError, AppErrorKind, identity};
use crate::config::Config;
use crate::engine::RegistrationSetup;
use crate::engine::message::{
    Credential, Effect, FailureClass, RegistrationFailure, RegistrationOrder, Reply,
};
use crate::engine::registration::{Registration, Steps};
use crate::port::host::{self, HostFacts};
use crate::port::link;
use crate::port::store::{LockError, StateDir};
use crate::registrar::Registrar;
use crate::sys::clock;
use crate::units::Moment;

/// What is there at the start: the token that an earlier life stored, or that the environment brings.
pub(super) fn establish(
    config: &Config,
    state: &StateDir,
    facts: &HostFacts,
) -> Result<(Registrar, RegistrationSetup), AppError> {
    let variable = |name: &str| std::env::var(name).ok();
    let known = Registrar::establish(
        state.root(),
        config.registration.as_ref(),
        facts,
        config.capabilities,
        link::proxies(variable),
        variable,
    );
    let setup = RegistrationSetup {
        settings: config.registration.clone(),
        credential: known.credential,
        unreadable: known.unreadable,
        seed: identity::random_u64()?,
    };
    Ok((known.registrar, setup))
}

/// Carries out an order. `progress` gets a line for each thing that happens.
pub(super) async fn register(
    config: &Config,
    what: RegistrationOrder,
    mut progress: impl FnMut(&str),
) -> Result<Result<Credential, RegistrationFailure>, AppError> {
    clock::now();
    let state = StateDir::open(&config.storage).map_err(|error| unusable(error.into()))?;
    let _lock = state.lock().map_err(|error| {
        let kind = match &error {
            LockError::Held { .. } => AppErrorKind::StateLocked,
            LockError::Io { .. } => AppErrorKind::StateUnusable,
        };
        AppError {
            kind,
            cause: error.into(),
        }
    })?;
    let variable = |name: &str| std::env::var(name).ok();
    let (registrar, setup) = establish(config, &state, &host::read(variable))?;
    let mut registration = Registration::new(setup);
    let mut steps = Steps::default();
    if let Reply::Refused(refusal) = registration.order(clock::now(), what, &mut steps) {
        return Ok(Err(RegistrationFailure {
            class: FailureClass::Settings,
            reason: refusal.reason,
            retry_after: None,
        }));
    }
    loop {
        let answer = act(steps, &registrar, &mut progress).await;
        let now = clock::now();
        if let Some((ticket, outcome)) = answer {
            if let Ok(credential) = &outcome
                && let Some(reason) = &credential.unsaved
            {
                // Without a process that keeps it in memory it would be lost.
                let reason =
                    format!("the service issued a token and the disk does not take it: {reason}");
                return Err(unusable(anyhow::Error::msg(reason)));
            }
            steps = registration.answered(now, ticket, outcome.map(Box::new));
        } else {
            steps = registration.tick(now);
        }
        let over = registration
            .snapshot(now)
            .and_then(|snapshot| Some((snapshot.order?.outcome?, snapshot.credential)));
        match over {
            Some((Err(failure), _)) => return Ok(Err(failure)),
            Some((Ok(()), Some(credential))) => return Ok(Ok(credential)),
            _ => {}
        }
        if steps
            .effects
            .iter()
            .all(|effect| matches!(effect, Effect::Note(_)))
            && let Some(due) = registration.due(now)
        {
            wait(now.mono, due, &mut progress).await;
        }
    }
}

type Answer = (
    crate::units::Ticket,
    Result<Credential, RegistrationFailure>,
);

/// Carries out what the machine wants; there is one call at a time.
async fn act(
    steps: Steps,
    registrar: &Registrar,
    progress: &mut impl FnMut(&str),
) -> Option<Answer> {
    let mut answer = None;
    for effect in steps.effects {
        if let Effect::Register {
            ticket,
            settings,
            call,
        } = effect
        {
            progress(&format!(
                "asking {}",
                settings.url.as_deref().unwrap_or_default()
            ));
            let outcome = registrar.call(&settings, &call).await;
            if let Err(failure) = &outcome {
                progress(&failure.reason);
            }
            answer = Some((ticket, outcome));
        }
    }
    answer
}

async fn wait(now: Moment, due: Moment, progress: &mut impl FnMut(&str)) {
    let span = due.since(now);
    if !span.is_zero() {
        progress(&format!("asking again in {} s", span.as_secs() + 1));
    }
    tokio::time::sleep(span).await;
}
