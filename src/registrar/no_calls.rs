//! A build that cannot register (without feature `registration`): tokens that others obtained are used all the same.
//!
//! Promises: the settings say so first; a call says it again.
//! Must never: look like a service that refused.

use super::{Registrar, failure};
use crate::config::Registration;
use crate::config::registration::NOT_BUILT;
use crate::engine::message::{Credential, FailureClass, RegistrationCall, RegistrationFailure};

impl Registrar {
    /// Says that there are no calls.
    #[expect(
        clippy::unused_async,
        reason = "stands in for a call, which takes time"
    )]
    pub(crate) async fn call(
        &self,
        _settings: &Registration,
        _call: &RegistrationCall,
    ) -> Result<Credential, RegistrationFailure> {
        Err(failure(FailureClass::Settings, NOT_BUILT.to_owned()))
    }
}
