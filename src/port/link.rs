//! One link to the server: dials, then moves messages until the link ends. Knows bytes, not OpAMP.
//!
//! Promises: each [`run`] is one attempt and ends with exactly one [`LinkReport::Down`], after every message that came
//! before; incoming messages wait for the loop and so push back on the server; TLS files are read when they are
//! used, so a renewed pair needs no restart of ours.
//! Must never: retry, wait for the loop to take an outgoing message, or log a header.
//!
//! Outgoing messages go through the [`FrameSender`] that comes with [`LinkReport::Up`]; it is bounded, and a caller who
//! finds it full drops the link. Dropping the last sender closes the link in good order after what is queued.

use opamp_client::transport::{
    Closed, ClosedBy, ClosedClass, Connection, DialError, DialOptions, FrameSender, ProxyRules,
    Pump, PumpConfig, Target, TlsOptions, dial,
};
use tokio::sync::mpsc;

use crate::config::{Server, Tls};
use crate::engine::message::{LinkLoss, LossKind, Offered};
use crate::sys::pem::{self, PemFiles};
use crate::sys::tls;
use crate::units::{AgentName, LinkId, Secret};

/// Messages of all links that may wait for the loop; one more waits in its link.
pub const QUEUE_MAX: usize = 16;

/// The header that names the instance (OpAMP R-036).
const UID_HEADER: &str = "OpAMP-Instance-UID";

/// Which link of which agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkKey {
    /// Whose link it is.
    pub agent: AgentName,
    /// Its number.
    pub link: LinkId,
}

/// What happened on a link.
#[derive(Debug)]
pub enum LinkReport {
    /// Connected and authorised; messages to the server go here.
    Up(FrameSender),
    /// One message from the server.
    Frame(Vec<u8>),
    /// The link is gone, or could not be made. The last report.
    Down(LinkLoss),
}

/// Where reports go.
pub type LinkReports = mpsc::Sender<(LinkKey, LinkReport)>;

/// One attempt.
#[derive(Debug)]
pub struct Attempt {
    /// Which link it is to become.
    pub key: LinkKey,
    /// Where and how.
    pub server: Box<Server>,
    /// `OpAMP-Instance-UID`.
    pub instance_uid: [u8; 16],
    /// The token of the registration, for a server whose settings have no `Authorization`.
    pub token: Option<Secret>,
    /// Proxies as the environment named them at our start, where the settings name none.
    pub proxies: ProxyRules,
    /// What an authenticator says who we are: in place of the settings' own headers, not of offered ones.
    pub auth: Option<(String, Secret)>,
    /// What a server offered, on top of all that.
    pub offered: Option<Box<Offered>>,
}

impl Attempt {
    #[cfg(feature = "connection")]
    fn offers_header(&self, name: &str) -> bool {
        let offered = self.offered.as_ref();
        offered.is_some_and(|offered| offered.has_header(name))
    }

    #[cfg(not(feature = "connection"))]
    #[expect(clippy::unused_self, reason = "nothing is offered in this build")]
    fn offers_header(&self, _name: &str) -> bool {
        false
    }
}

/// Reads the proxies' variables, upper case first, through `variable`.
pub fn proxies(variable: impl Fn(&str) -> Option<String>) -> ProxyRules {
    let read = |upper: &str, lower: &str| variable(upper).or_else(|| variable(lower));
    ProxyRules {
        https_proxy: read("HTTPS_PROXY", "https_proxy"),
        http_proxy: read("HTTP_PROXY", "http_proxy"),
        no_proxy: read("NO_PROXY", "no_proxy"),
        ..ProxyRules::default()
    }
}

/// Dials and pumps until the link ends.
///
/// # Cancel safety
/// Dropping the future drops the connection; there is no report of it then.
pub async fn run(attempt: Attempt, reports: LinkReports) {
    let key = attempt.key.clone();
    let loss = match connect(attempt).await {
        Ok(connection) => pump(&key, connection, &reports).await,
        Err(loss) => loss,
    };
    // Nobody listening means that the program ends.
    reports.send((key, LinkReport::Down(loss))).await.ok();
}

async fn connect(attempt: Attempt) -> Result<Connection, LinkLoss> {
    let server = &attempt.server;
    let mut target: Target = server
        .endpoint
        .parse()
        .map_err(|error| settings(format!("server.endpoint: {error}")))?;
    let uid = uuid::Uuid::from_bytes(attempt.instance_uid).to_string();
    let own = server
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()));
    for (name, value) in own {
        target = target
            .with_header(name, value)
            .map_err(|error| settings(format!("server.headers: {error}")))?;
    }
    let tls = read_tls(server.tls.clone()).await?;
    target = target
        .with_tls(tls)
        .with_proxies(server.proxies(&attempt.proxies));
    if let Some(offered) = &attempt.offered {
        target = on_top(offered, &target).map_err(|error| settings(error.to_string()))?;
    }
    if let Some((name, value)) = &attempt.auth
        && !attempt.offers_header(name)
    {
        target = target
            .with_header_alone(name, value.expose())
            .map_err(|error| settings(format!("server.auth: {error}")))?;
    }
    target = target
        .with_header(UID_HEADER, &uid)
        .map_err(|error| settings(format!("{UID_HEADER}: {error}")))?;
    if let Some(token) = &attempt.token
        && !target.has_header("authorization")
    {
        target = target
            .with_header("Authorization", &format!("Bearer {}", token.expose()))
            .map_err(|error| settings(format!("token of the registration: {error}")))?;
    }
    dial(&target, DialOptions::default())
        .await
        .map_err(|error| not_connected(&error))
}

#[cfg(feature = "connection")]
fn on_top(offered: &Offered, local: &Target) -> Result<Target, impl std::fmt::Display> {
    offered.on(local)
}

#[cfg(not(feature = "connection"))]
fn on_top(offered: &Offered, _local: &Target) -> Result<Target, std::convert::Infallible> {
    match *offered {}
}

async fn pump(key: &LinkKey, connection: Connection, reports: &LinkReports) -> LinkLoss {
    let (pump, sender, mut receiver) = Pump::new(connection, PumpConfig::default());
    let up = (key.clone(), LinkReport::Up(sender));
    if reports.send(up).await.is_err() {
        return ours();
    }
    let forward = async {
        while let Some(frame) = receiver.recv().await {
            if reports
                .send((key.clone(), LinkReport::Frame(frame)))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    // Both: what came before the end is passed on before the end is.
    let (closed, ()) = futures_util::future::join(pump.run(), forward).await;
    ended(&closed)
}

/// Reads the files now: they may have been replaced since the last attempt.
async fn read_tls(tls: Tls) -> Result<TlsOptions, LinkLoss> {
    let options = tls.options();
    let files = PemFiles {
        ca: tls.ca,
        client_pair: tls.client_pair,
    };
    pem::complete(options, files).await.map_err(settings)
}

fn loss(kind: LossKind, reason: String) -> LinkLoss {
    LinkLoss {
        kind,
        reason,
        retry_after: None,
    }
}

/// Our own settings or files cannot work as they are; a later attempt sees them again.
fn settings(reason: String) -> LinkLoss {
    loss(LossKind::Protocol, reason)
}

/// The loss of a link that we closed.
pub fn ours() -> LinkLoss {
    loss(LossKind::Ours, "closed by us".to_owned())
}

/// The loss of a link whose peer does not read what we send.
pub fn congested() -> LinkLoss {
    let reason = "the server does not read what we send; the link was dropped";
    loss(LossKind::Network, reason.to_owned())
}

/// The loss of a link whose task ended in a way it must not.
pub fn broken(reason: &str) -> LinkLoss {
    loss(LossKind::Protocol, format!("internal error: {reason}"))
}

fn not_connected(error: &DialError) -> LinkLoss {
    let kind = match error {
        DialError::Unauthorized { .. } => LossKind::Rejected,
        DialError::Throttled { .. } => LossKind::Throttled,
        DialError::Tls { .. } => LossKind::Tls,
        DialError::Status { .. }
        | DialError::Upgrade { .. }
        | DialError::Redirect { .. }
        | DialError::Settings { .. } => LossKind::Protocol,
        // Resolve, Connect, Proxy, Timeout, and whatever a later transport calls a failure.
        _ => LossKind::Network,
    };
    LinkLoss {
        kind,
        reason: tls::in_words(error),
        retry_after: error.retry_after(),
    }
}

/// Numbers below it are HTTP statuses.
const FIRST_CLOSE_CODE: u16 = 1000;

fn ended(closed: &Closed) -> LinkLoss {
    let answered = closed.code < FIRST_CLOSE_CODE;
    let kind = match (closed.class(), closed.by) {
        (ClosedClass::Wanted, _) => LossKind::Ours,
        (ClosedClass::TooLarge, ClosedBy::Peer) => LossKind::TooLarge,
        (ClosedClass::Lost, _) if answered => LossKind::Protocol,
        (ClosedClass::Rejected, _) => LossKind::Rejected,
        (ClosedClass::Throttled, _) => LossKind::Throttled,
        (ClosedClass::TooLarge, _) | (ClosedClass::Lost, ClosedBy::Us) => LossKind::Protocol,
        (ClosedClass::Lost, ClosedBy::Peer) => LossKind::Closed,
        _ => LossKind::Network,
    };
    let reason = match (kind, closed.by, closed.reason.as_str()) {
        (LossKind::Ours, ..) => "closed by us".to_owned(),
        (_, _, reason) if answered => reason.to_owned(),
        (_, ClosedBy::Peer, "") => format!("the server closed with code {}", closed.code),
        (_, ClosedBy::Peer, reason) => {
            format!("the server closed with code {}: {reason}", closed.code)
        }
        (_, _, "") => format!("the link broke, code {}", closed.code),
        (_, _, reason) => reason.to_owned(),
    };
    LinkLoss {
        kind,
        reason,
        retry_after: closed.retry_after,
    }
}

#[cfg(test)]
mod tests;
