//! Scenarios with a real OpenTelemetry Collector under `adjutant run`, each against our dev server and against a server
//! made with opamp-go. `docs/conformance/e2e.md` says which acceptance row is tested where.

mod apply;
mod auth;
mod bench;
mod beside;
mod connection;
mod fallback;
mod fault;
mod flow;
mod generic;
mod habits;
mod health;
mod hostile;
mod identity;
mod inheritance;
mod init;
mod layers;
mod local;
mod offers;
mod outage;
mod own_telemetry;
mod polling;
mod readings;
mod restart;
mod rollback;
mod start;
mod succession;

/// One test per server for a scenario that takes the [`crate::fleet::Kind`] of server.
macro_rules! on_both_servers {
    ($scenario:ident) => {
        mod $scenario {
            use crate::fleet::Kind;

            #[test]
            fn dev_server() {
                super::$scenario(Kind::Dev);
            }

            #[test]
            fn opamp_go() {
                super::$scenario(Kind::OpampGo);
            }
        }
    };
}

/// One test per server and way to reload; with `process_1` one more per way to reload, under a supervisor that is
/// process 1.
macro_rules! in_both_modes {
    ($scenario:ident) => {
        mod $scenario {
            use crate::collector::bench::Reload;
            use crate::fleet::Kind;

            #[test]
            fn restart_dev_server() {
                super::$scenario(Kind::Dev, Reload::Restart);
            }

            #[test]
            fn restart_opamp_go() {
                super::$scenario(Kind::OpampGo, Reload::Restart);
            }

            #[test]
            fn hup_dev_server() {
                super::$scenario(Kind::Dev, Reload::Hup);
            }

            #[test]
            fn hup_opamp_go() {
                super::$scenario(Kind::OpampGo, Reload::Hup);
            }
        }
    };
    ($scenario:ident, process_1) => {
        mod $scenario {
            use crate::collector::bench::Reload;
            use crate::fleet::Kind;

            #[test]
            fn restart_dev_server() {
                super::$scenario(Kind::Dev, Reload::Restart);
            }

            #[test]
            fn restart_opamp_go() {
                super::$scenario(Kind::OpampGo, Reload::Restart);
            }

            #[test]
            fn hup_dev_server() {
                super::$scenario(Kind::Dev, Reload::Hup);
            }

            #[test]
            fn hup_opamp_go() {
                super::$scenario(Kind::OpampGo, Reload::Hup);
            }

            #[test]
            fn process_1_restart_opamp_go() {
                if crate::collector::init::is_possible() {
                    super::$scenario(Kind::OpampGo, Reload::RestartBelowInit);
                }
            }

            #[test]
            fn process_1_hup_opamp_go() {
                if crate::collector::init::is_possible() {
                    super::$scenario(Kind::OpampGo, Reload::HupBelowInit);
                }
            }
        }
    };
}

pub(crate) use {in_both_modes, on_both_servers};
