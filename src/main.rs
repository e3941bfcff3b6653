//! The program: panic hook, one runtime, one exit code. No logic.
//!
//! Promises: a panic is one line on standard error and exit code 101; everything else ends with a code of
//! `cli::ExitCode`.
//! Must never: decide anything; it hands the arguments to `cli` and its answer to the system.

use std::process::ExitCode;

use adjutant::cli::{self, Out};
use adjutant::sys::names;

fn main() -> ExitCode {
    names::settle();
    let mut out = Out::process();
    report_panics();
    let command = cli::parse(std::env::args_os(), &mut out)
        .and_then(|command| cli::perform_outside(command, &mut out));
    let command = match command {
        Ok(command) => command,
        Err(code) => return code.into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli::perform(command, &mut out));
            // A name that does not resolve sits in a thread that nobody can end; the exit does not wait for it.
            runtime.shutdown_background();
            code.into()
        }
        Err(error) => {
            out.problem(&format!("start the runtime: {error}"));
            cli::ExitCode::Failed.into()
        }
    }
}

/// One line per panic: the place and the words, for a bug report.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let words = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let place = panic
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let words = words.replace('\n', " ");
        Out::process().problem(&format!(
            "internal error at {place}: {words}; please report this"
        ));
    }));
}
