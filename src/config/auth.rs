//! `server.auth` and `extensions`: who we are for the server, as the Collector's authenticators say it.
//!
//! Promises: names and keys of `basicauth`, `bearertokenauth`, `oauth2client` and `nop`; what only servers need of them
//! is an error that says so. In the form of the Collector's supervisor the gate of that program has to be on.
//! Must never: read a file. Secrets are looked up when a connection is made.

use std::time::Duration;

use crate::units::{Secret, TextSource};

use super::read::Section;
use super::tls::tls;
use super::{Form, Tls};

/// The gate that opampsupervisor wants for extensions.
pub const EXTENSIONS_GATE: &str = "opampsupervisor.Extensions";

/// What kind a key is whose value is never shown.
pub(super) const SECRET_TEXT: &str = "secret text";

/// How we prove who we are when we connect.
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// User and password.
    Basic {
        /// Who.
        username: TextSource,
        /// Its password.
        password: TextSource,
    },
    /// A token.
    Bearer {
        /// Which header carries it.
        header: String,
        /// What stands before it.
        scheme: String,
        /// The token.
        token: TextSource,
    },
    /// A token that an authorization server gives for a secret.
    OAuth2(Box<OAuth2>),
}

impl Auth {
    /// The header that it sets.
    pub fn header(&self) -> &str {
        match self {
            Self::Bearer { header, .. } => header,
            Self::Basic { .. } | Self::OAuth2(_) => "Authorization",
        }
    }
}

/// Client credentials for an authorization server.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuth2 {
    /// Where tokens are given.
    pub token_url: String,
    /// Who asks.
    pub client_id: TextSource,
    /// What proves it.
    pub client_secret: TextSource,
    /// What the token is for.
    pub scopes: Vec<String>,
    /// More of the request.
    pub parameters: Vec<(String, Secret)>,
    /// How the authorization server is verified.
    pub tls: Tls,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long before its end a token is not used any more.
    pub expiry_buffer: Duration,
}

/// One entry of `extensions`.
enum Extension {
    Auth(Auth),
    /// Does nothing.
    Nop,
}

/// Reads `extensions`, and of them the one that `server.auth` names.
pub(super) fn auth(root: &mut Section<'_, '_, '_>, named: Option<String>) -> Option<Auth> {
    let list = root.named("extensions");
    if !cfg!(feature = "auth") {
        if named.is_some() || !list.is_empty() {
            let message = "this program was built without authenticators (feature auth), use `server.headers`";
            root.problem("extensions", message);
        }
        return None;
    }
    let gated = root.reader.form == Some(Form::Agent) && !root.reader.has_gate(EXTENSIONS_GATE);
    if gated && !list.is_empty() {
        root.problem(
            "extensions",
            format!(
                "the feature gate {EXTENSIONS_GATE} is off; start with --feature-gates={EXTENSIONS_GATE}, as \
                 opampsupervisor wants it"
            ),
        );
    }
    if list.is_empty() {
        // Their keys are known to whoever asks for all keys.
        for kind in ["basicauth", "bearertokenauth", "oauth2client"] {
            extension(root.entry("extensions", kind, None), kind);
        }
    }
    let mut found = None;
    for (key, node) in list {
        let id = key.text().unwrap_or_default();
        let kind = id.split('/').next().unwrap_or_default();
        let section = root.entry("extensions", id, Some(node));
        let is_named = named.as_deref() == Some(id);
        if let Some(extension) = extension(section, kind)
            && is_named
        {
            found = Some(extension);
        }
    }
    match (named, found) {
        (None, _) => None,
        (Some(_), Some(Extension::Auth(auth))) => Some(auth),
        (Some(id), Some(Extension::Nop)) => {
            root.problem("server", format!("auth: {id} is no authenticator"));
            None
        }
        (Some(id), None) => {
            let is_listed = root.has("extensions") && root.has_named("extensions", &id);
            if !is_listed {
                let message =
                    format!("auth: no extension is named {id:?}; list it in `extensions`");
                root.problem("server", message);
            }
            None
        }
    }
}

fn extension(mut section: Section<'_, '_, '_>, kind: &str) -> Option<Extension> {
    match kind {
        "basicauth" => basic(section).map(Extension::Auth),
        "bearertokenauth" => bearer(section).map(Extension::Auth),
        "oauth2client" => oauth2(section).map(Extension::Auth),
        "nop" => {
            section.finish();
            Some(Extension::Nop)
        }
        _ => {
            section.problem(
                "",
                "not an extension of this version; there are: basicauth, bearertokenauth, nop, oauth2client",
            );
            None
        }
    }
}

const SERVERS_ONLY: &str = "for servers alone, and this is a client; remove it";

fn basic(mut section: Section<'_, '_, '_>) -> Option<Auth> {
    section.not_built(&["htpasswd"], SERVERS_ONLY);
    let mut client = section.sub("client_auth");
    let about = ("who we are", "file with it, read at every connection");
    let username = either(&mut client, ("username", "username_file"), about);
    let about = (
        "the password; a secret",
        "file with it, read at every connection",
    );
    let password = either(&mut client, ("password", "password_file"), about);
    let present = client.is_present();
    client.finish();
    if section.is_present() && (!present || username.is_none() || password.is_none()) {
        section.problem("", "needs `client_auth` with a username and a password");
    }
    section.finish();
    Some(Auth::Basic {
        username: username?,
        password: password?,
    })
}

fn bearer(mut section: Section<'_, '_, '_>) -> Option<Auth> {
    section.not_built(&["tokens"], SERVERS_ONLY);
    let about = (
        "the token; a secret",
        "file with it, read at every connection",
    );
    let token = either(&mut section, ("token", "filename"), about);
    let scheme = section.text("scheme", "what stands before the token", "Bearer");
    let header = section.parsed(
        "header",
        ("header name", "which header carries it"),
        "Authorization",
        header_name,
    );
    if section.is_present() && token.is_none() {
        section.problem("", "needs a `token` or a `filename`");
    }
    section.finish();
    Some(Auth::Bearer {
        header: header.unwrap_or_else(|| "Authorization".to_owned()),
        scheme: scheme.unwrap_or_else(|| "Bearer".to_owned()),
        token: token?,
    })
}

fn oauth2(mut section: Section<'_, '_, '_>) -> Option<Auth> {
    let about = ("http or https URL", "where tokens are given for the secret");
    let token_url = section.parsed("token_url", about, "required", http_url);
    let about = ("who asks", "file with it, read when a token is asked for");
    let client_id = either(&mut section, ("client_id", "client_id_file"), about);
    let about = (
        "what proves it; a secret",
        "file with it, read when a token is asked for",
    );
    let client_secret = either(&mut section, ("client_secret", "client_secret_file"), about);
    let scopes = section.texts("scopes", "what the token is for", "none");
    let about = "more of the request; values are secrets";
    let parameters = section.pairs("endpoint_params", about, true);
    let (tls, _) = tls(section.sub("tls"));
    let timeout = section.duration(
        "timeout",
        "how long a request for a token may take; 0 means 30s",
        Duration::ZERO,
        Duration::ZERO..=Duration::from_mins(10),
    );
    let expiry_buffer = section.duration(
        "expiry_buffer",
        "how long before its end a token is not used any more",
        Duration::from_mins(5),
        Duration::ZERO..=Duration::from_hours(24),
    );
    section.not_built(
        &[
            "grant_type",
            "client_certificate_key",
            "client_certificate_key_file",
            "client_certificate_key_id",
            "signature_algorithm",
            "iss",
            "audience",
            "claims",
        ],
        "not supported in this version, which knows client credentials alone; remove it",
    );
    let complete = token_url.is_some() && client_id.is_some() && client_secret.is_some();
    if section.is_present() && !complete && !section.has_problem() {
        section.problem("", "needs `token_url`, `client_id` and `client_secret`");
    }
    section.finish();
    Some(Auth::OAuth2(Box::new(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        scopes: scopes.unwrap_or_default(),
        parameters: parameters
            .into_iter()
            .map(|(name, value)| (name, Secret::new(value)))
            .collect(),
        tls,
        timeout: if timeout.is_zero() {
            Duration::from_secs(30)
        } else {
            timeout
        },
        expiry_buffer,
    })))
}

/// A text, or a file that holds it; the file is preferred, as the Collector does.
fn either(
    section: &mut Section<'_, '_, '_>,
    (text, file): (&'static str, &'static str),
    (about_text, about_file): (&'static str, &'static str),
) -> Option<TextSource> {
    let given = section.parsed(text, (SECRET_TEXT, about_text), "none", |found| {
        Ok(Secret::new(found))
    });
    let path = section.path_value(file, about_file, "none");
    path.map(TextSource::File)
        .or_else(|| given.map(TextSource::Text))
}

fn header_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 128 || !text.chars().all(plain) {
        return Err("a header name belongs here".to_owned());
    }
    Ok(text.to_owned())
}

fn http_url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or("begin the URL with https:// or http://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || text.contains(char::is_whitespace) {
        return Err("a URL with a host and without credentials belongs here".to_owned());
    }
    Ok(text.to_owned())
}
