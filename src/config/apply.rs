//! How offers are applied to one agent of the `agents:` form.
//!
//! Promises: every default of `apply:` is written here once.
//! Must never: let settings ask for a HUP that nothing could prove.

use std::time::Duration;

use crate::yaml::Limits;

use super::read::Section;
use super::{AfterRollback, Apply, Drift, EmptyConfig, OfferLimits, Profile, Reload, ReportWhen};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1 << 20;

/// How offers are applied unless the settings say otherwise. The other form starts from it, too.
pub(super) const APPLY: Apply = Apply {
    accept_remote: true,
    report: ReportWhen::AfterProbation,
    validate: true,
    validate_timeout: Duration::from_secs(30),
    find_fault: cfg!(feature = "layers"),
    rollback: true,
    watch_local_files: cfg!(feature = "layers"),
    without_unreadable: false,
    drift: if cfg!(feature = "layers") {
        Drift::Restore
    } else {
        Drift::Off
    },
    reload: Reload::Restart,
    proof_timeout: Duration::from_secs(30),
    probation: Duration::from_secs(30),
    after_rollback: AfterRollback::KeepFailed,
    empty_config: EmptyConfig::Keep,
    certificate_wait: DAY,
    keep_revisions: 10,
    limits: OfferLimits {
        files: 64,
        file_bytes: Limits::OFFERED.bytes as u64,
        total_bytes: 16 * MIB,
    },
    flow: super::flow::FLOW,
};

pub(super) fn apply(mut section: Section<'_, '_, '_>, profile: &mut Profile) -> Apply {
    let long = 100 * MILLISECOND..=3600 * SECOND;
    let s = &mut section;
    let apply = Apply {
        accept_remote: s.switch(
            "accept_remote_config",
            "whether offers are taken at all",
            APPLY.accept_remote,
        ),
        report: s.choice(
            "report",
            "when APPLIED is reported",
            &[
                ("after_probation", ReportWhen::AfterProbation),
                ("on_proof", ReportWhen::OnProof),
            ],
            ("after_probation", APPLY.report),
        ),
        validate: s.switch(
            "validate",
            "whether the agent's own validator runs first, if it has one",
            APPLY.validate,
        ),
        validate_timeout: s.duration(
            "validate_timeout",
            "how long the validator may take",
            APPLY.validate_timeout,
            long.clone(),
        ),
        find_fault: layers_switch(
            s,
            "find_fault",
            "whether a refused bundle of several files is searched for the one to blame",
        ),
        rollback: s.switch(
            "rollback",
            "whether a failed apply goes back by itself",
            APPLY.rollback,
        ),
        watch_local_files: layers_switch(
            s,
            "watch_local_files",
            "whether a file of `config_files` that changes on disk is applied like an offer",
        ),
        without_unreadable: APPLY.without_unreadable,
        drift: drift(s),
        reload: reload(s, profile),
        proof_timeout: s.duration(
            "proof_timeout",
            "how long the child may take to prove a config",
            APPLY.proof_timeout,
            long,
        ),
        probation: s.duration(
            "probation",
            "how long a proven config must hold to become last good",
            APPLY.probation,
            Duration::ZERO..=DAY,
        ),
        after_rollback: s.choice(
            "after_rollback",
            "what the server reads after a rollback",
            &[
                ("keep_failed", AfterRollback::KeepFailed),
                ("report_good", AfterRollback::ReportGood),
            ],
            ("keep_failed", APPLY.after_rollback),
        ),
        empty_config: s.choice(
            "empty_config",
            "what an offer without files means",
            &[
                ("keep", EmptyConfig::Keep),
                ("default", EmptyConfig::Default),
                ("stop", EmptyConfig::Stop),
            ],
            ("keep", APPLY.empty_config),
        ),
        certificate_wait: s.duration(
            "certificate_wait",
            "how long a config may wait for a certificate that it names",
            APPLY.certificate_wait,
            SECOND..=30 * DAY,
        ),
        keep_revisions: count(
            s,
            ("keep_revisions", "revisions kept beside those in use"),
            APPLY.keep_revisions,
            0..=1_000,
        ),
        limits: limits(s),
        flow: super::flow::check(s.sub("flow"), &mut profile.flow),
    };
    section.finish();
    apply
}

/// A switch that is on where the feature is there and may not be turned on where it is not.
fn layers_switch(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
    about: &'static str,
) -> bool {
    let built = cfg!(feature = "layers");
    let on = section.switch(key, about, built);
    if on && !built {
        section.problem(key, "this program was built without layers, remove it");
    }
    on && built
}

fn drift(section: &mut Section<'_, '_, '_>) -> Drift {
    let chosen = section.choice(
        "drift",
        "when somebody else changes a file of the running revision: say it and put it back, say it, or do not look",
        &[
            ("restore", Drift::Restore),
            ("report", Drift::Report),
            ("off", Drift::Off),
        ],
        (
            if cfg!(feature = "layers") { "restore" } else { "off" },
            APPLY.drift,
        ),
    );
    if !cfg!(feature = "layers") && chosen != Drift::Off {
        section.problem("drift", "this program was built without layers, remove it");
    }
    chosen
}

fn limits(section: &mut Section<'_, '_, '_>) -> OfferLimits {
    let default = APPLY.limits;
    OfferLimits {
        files: count(
            section,
            ("max_files", "files in one offer"),
            default.files,
            1..=10_000,
        ),
        file_bytes: section.size(
            "max_file_size",
            "bytes of one offered file",
            default.file_bytes,
            1024..=default.file_bytes,
        ),
        total_bytes: section.size(
            "max_total_size",
            "bytes of one offer",
            default.total_bytes,
            1024..=64 * MIB,
        ),
    }
}

pub(super) fn count(
    section: &mut Section<'_, '_, '_>,
    (key, about): (&'static str, &'static str),
    default: usize,
    range: std::ops::RangeInclusive<u32>,
) -> usize {
    let default = u32::try_from(default).unwrap_or(u32::MAX);
    section.number(key, about, default, range) as usize
}

/// A HUP is used only where something proves that it worked.
fn reload(section: &mut Section<'_, '_, '_>, profile: &mut Profile) -> Reload {
    let choices = [("hup", Reload::Hup), ("restart", Reload::Restart)];
    let about = "how a new config is made to run";
    let wanted = section.optional_choice(
        "reload",
        about,
        &choices,
        "hup if the profile can, else restart",
    );
    let proven = profile.proof.proves_hup();
    match wanted {
        Some(Reload::Hup) if !proven => {
            section.problem(
                "reload",
                "a HUP needs a proof that sees it, give `proof:` of kind exec or http",
            );
            Reload::Restart
        }
        Some(Reload::Hup) => {
            profile.hup = true;
            Reload::Hup
        }
        None if profile.hup && proven => Reload::Hup,
        None | Some(Reload::Restart) => Reload::Restart,
    }
}
