//! Commands.

use super::*;

//
#[test]
fn an_accepted_command_excludes_everything_else() {
    let mut bench = Bench::greeted();
    let mut message = command(0);
    message.remote_config = Some(offer(b"x"));
    message.flags = 1;
    message.capabilities = 3;
    bench.hear(&message);
    assert_eq!(
        bench.events(),
        [SessionEvent::ServerCapabilities(3), SessionEvent::Restart]
    );
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn a_command_without_the_bit_is_ignored_and_the_rest_counts() {
    let mut bench = Bench::full();
    bench
        .session
        .set_capabilities(ALL & !AgentCapabilities::AcceptsRestartCommand.bit());
    bench.connect();
    bench.one();
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"x")),
        ..command(0)
    });
    assert_eq!(
        bench.events(),
        [
            SessionEvent::Refused(Refusal::Command),
            SessionEvent::RemoteConfig(offer(b"x")),
        ]
    );
}

//
#[test]
fn an_unknown_command_is_not_a_restart() {
    let mut bench = Bench::greeted();
    bench.hear(&command(7));
    assert_eq!(bench.events(), [SessionEvent::UnknownCommand(7)]);
}

//
#[test]
fn repeated_restarts_are_one_until_it_was_read() {
    let mut bench = Bench::greeted();
    for _ in 0..50 {
        bench.hear(&command(0));
    }
    assert_eq!(bench.events(), [SessionEvent::Restart]);
    bench.hear(&command(0));
    assert_eq!(bench.events(), [SessionEvent::Restart]);
}
