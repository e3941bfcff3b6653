//! A host whose token comes from a registration service.

use super::super::rig::There;
use super::House;
use super::tape::Tape;
use crate::engine::message::{Command, LossKind, RegistrationOrder};

const TOLD: &[&str] = &[
    "registering",
    "registered",
    "token",
    "dial",
    "hang up",
    "connected",
    "link.endpoint",
    "registration",
];

fn house(server: &str) -> House {
    let mut house = House::with(&format!(
        "{server}registration: {{url: 'http://service', token_file: /etc/token}}\n\
         agents: {{it: {{profile: mute_default, executable: /bin/sh}}}}\n"
    ));
    house.tape.only(TOLD);
    house
}

#[test]
fn host_dials_with_its_token_and_where_the_settings_name_no_server_the_one_of_the_service() {
    let mut told = Tape::default();
    for (what, server) in [
        ("no server in the settings", ""),
        (
            "a server in the settings",
            "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}\n",
        ),
    ] {
        let mut house = house(server);
        house.boot();
        house.run_s(10);
        house.status();
        house.dies();
        house.boot();
        house.run_s(10);
        house.status();
        // It does not take the token any more.
        house.server_is("it", There::Lost(LossKind::Rejected, None));
        house.run_s(5);
        house.server_is("it", There::Up);
        house.run_s(120);
        house.status();
        house.command(Command::Register(RegistrationOrder::Restart));
        house.run_s(30);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "registered",
        "The token of a registration is shown to the server; settings that name none follow the service",
    );
}
