//! The embedded server for trying, as the composition root sees it: bound before the agents that are to use it.
//!
//! Promises: its address and token are shown to the person who started us, once, on standard output, and never logged.
//! Must never: send the headers of the real server to it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{AppError, AppErrorKind, Process};
use crate::config::{self, Config, Overrides};
use crate::dev_server::{self, DevServer, Options};
use crate::perform::Tasks;
use crate::sys::clock;

/// Binds the server, if one is asked for, and points the settings to it.
pub(super) async fn bind(
    config: &mut Config,
    address: Option<SocketAddr>,
) -> Result<Option<DevServer>, AppError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let server = DevServer::bind(Options {
        // The default port may be in use; one that somebody asked for by number may not.
        address: (address != dev_server::default_address()).then_some(address),
        token: None,
        clock: clock::wall,
    })
    .await
    .map_err(|error| AppError {
        kind: AppErrorKind::Address,
        cause: error.into(),
    })?;
    // The defaults of a server section, without anything that was meant for the real one.
    let overrides = Overrides {
        storage: Some(config.storage.clone()),
        endpoint: Some(server.opamp_url()),
        ..Overrides::default()
    };
    config.server = config::defaults(&Process, &overrides)
        .map_err(|errors| AppError {
            kind: AppErrorKind::Settings,
            cause: errors.into(),
        })?
        .server;
    // A fleet's token is no business of it either.
    config.registration = None;
    Ok(Some(server))
}

/// Shows where the page and the state are, and serves it as long as the program runs.
pub(super) fn serve(server: Option<DevServer>, state: &Path, tasks: &mut Tasks) {
    let Some(server) = server else {
        return;
    };
    let page = server.page_url_with_token();
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason not to run.
    writeln!(
        out,
        "dev server: open {} in a browser\ndev server: token {}\ndev server: the agent's state is in {}",
        page.expose(),
        server.token().expose(),
        state.display()
    )
    .and_then(|()| out.flush())
    .ok();
    tasks.serve("dev server", async move {
        server.serve(std::future::pending()).await;
        "it stopped serving".to_owned()
    });
}
