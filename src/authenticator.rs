//! Says who we are when a link is made: user and password, a token of a file, or one that an authorization server
//! gives.
//!
//! Promises: files are read at every connection, so that what was renewed is used; a token of an authorization server
//! is asked for once for all links, used until shortly before its end, and forgotten when the server refuses it.
//! Must never: retry, or let a secret into an error.

use opamp_client::transport::ProxyRules;
#[cfg(feature = "auth")]
use tokio::sync::watch;

use crate::config::Auth;
use crate::engine::message::LinkLoss;
#[cfg(feature = "auth")]
use crate::port::admin::base64;
use crate::units::Secret;

#[cfg(feature = "auth")]
mod oauth2;

/// Bytes of a file with a secret.
#[cfg(feature = "auth")]
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Answers for every link.
#[derive(Debug, Clone)]
pub(crate) struct Authenticator {
    /// The last token of an authorization server.
    #[cfg(feature = "auth")]
    tokens: watch::Sender<Option<oauth2::Token>>,
    #[cfg_attr(
        not(feature = "auth"),
        expect(dead_code, reason = "nobody is asked for a token")
    )]
    proxies: ProxyRules,
}

impl Authenticator {
    /// One that knows no token yet.
    pub(crate) fn new(proxies: ProxyRules) -> Self {
        Self {
            #[cfg(feature = "auth")]
            tokens: watch::Sender::new(None),
            proxies,
        }
    }
}

#[cfg(feature = "auth")]
impl Authenticator {
    /// The header for a connection that is about to be made.
    pub(crate) async fn header(&self, auth: Auth) -> Result<(String, Secret), LinkLoss> {
        let name = auth.header().to_owned();
        let value = match auth {
            Auth::Basic { username, password } => {
                let pair = tokio::task::spawn_blocking(move || {
                    Ok::<_, String>((read(&username)?, read(&password)?))
                });
                let (username, password) = joined(pair.await)?;
                let pair = format!("{}:{}", username.expose(), password.expose());
                format!("Basic {}", base64::encode(pair.as_bytes()))
            }
            Auth::Bearer { scheme, token, .. } => {
                let token = joined(tokio::task::spawn_blocking(move || read(&token)).await)?;
                let token = token.expose().lines().next().unwrap_or_default().trim();
                if token.is_empty() {
                    return Err(unusable("the token of server.auth is empty".to_owned()));
                }
                match scheme.as_str() {
                    "" => token.to_owned(),
                    scheme => format!("{scheme} {token}"),
                }
            }
            Auth::OAuth2(settings) => self.token(&settings).await?,
        };
        Ok((name, Secret::new(value)))
    }

    /// The server did not let us in: what was cached is not used again.
    pub(crate) fn forget(&self) {
        self.tokens.send_replace(None);
    }
}

#[cfg(not(feature = "auth"))]
impl Authenticator {
    /// Says that there are no authenticators.
    #[expect(clippy::unused_async, reason = "stands in for one that asks")]
    pub(crate) async fn header(&self, _auth: Auth) -> Result<(String, Secret), LinkLoss> {
        use crate::engine::message::LossKind;

        Err(LinkLoss {
            kind: LossKind::Protocol,
            reason: "this program was built without authenticators (feature auth)".to_owned(),
            retry_after: None,
        })
    }

    /// There is nothing to forget.
    #[expect(clippy::unused_self, reason = "stands in for one that keeps")]
    pub(crate) fn forget(&self) {}
}

#[cfg(feature = "auth")]
fn read(source: &crate::units::TextSource) -> Result<Secret, String> {
    use crate::sys::durable::{Disk as _, RealDisk};
    use crate::units::TextSource;

    let path = match source {
        TextSource::Text(text) => return Ok(text.clone()),
        TextSource::File(path) => path,
    };
    let bytes = RealDisk
        .read(path, FILE_BYTES_MAX)
        .map_err(|error| format!("read {}: {error}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not text", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(feature = "auth")]
fn joined<T>(result: Result<Result<T, String>, tokio::task::JoinError>) -> Result<T, LinkLoss> {
    result
        .map_err(|error| unusable(error.to_string()))?
        .map_err(unusable)
}

/// Our own settings or files cannot work as they are; a later attempt sees them again.
#[cfg(feature = "auth")]
fn unusable(reason: String) -> LinkLoss {
    LinkLoss {
        kind: crate::engine::message::LossKind::Protocol,
        reason,
        retry_after: None,
    }
}

#[cfg(feature = "auth")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TextSource;

    fn bearer(token: TextSource) -> Auth {
        Auth::Bearer {
            header: "Authorization".to_owned(),
            scheme: "Bearer".to_owned(),
            token,
        }
    }

    #[tokio::test]
    async fn a_token_file_is_read_each_time_and_its_lack_is_named() {
        use crate::sys::durable::{Disk as _, RealDisk};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let authenticator = Authenticator::new(ProxyRules::default());
        let ask = || authenticator.header(bearer(TextSource::File(path.clone())));
        let lost = ask().await.unwrap_err();
        assert!(lost.reason.starts_with("read "), "{lost:?}");
        for token in ["one", "two"] {
            RealDisk
                .write_file(&path, format!("{token}\n").as_bytes(), 0o600)
                .unwrap();
            let (name, value) = ask().await.unwrap();
            assert_eq!(
                (name.as_str(), value.expose()),
                ("Authorization", format!("Bearer {token}").as_str())
            );
        }
        RealDisk.write_file(&path, b"\n", 0o600).unwrap();
        assert_eq!(
            ask().await.unwrap_err().reason,
            "the token of server.auth is empty"
        );
    }
}
