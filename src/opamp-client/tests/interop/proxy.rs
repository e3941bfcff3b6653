//! A real proxy with a password in front of a real server.
//!
//! The server's name is known to the proxy alone (a hosts file of its own, in a mount namespace): whoever reaches the
//! server has gone through the proxy, and did not look the name up by itself.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use opamp_client::transport::{ClientEvent, DialError, ProxyRules, Target};

use crate::agent::{Agent, UID_TEXT};
use crate::peer::Peer;

const NAME: &str = "fleet.example";

/// Tinyproxy, on loopback, for whoever knows the password.
struct Proxy {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

impl Proxy {
    fn start(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("opamp-client-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        // Free now, and ours a moment later; whoever takes it meanwhile makes the test fail, not pass.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = directory.join("tinyproxy.conf");
        let log = directory.join("log");
        let settings = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 30\nMaxClients 20\nBasicAuth user s3cret\nLogFile \"{}\"\n\
             LogLevel Connect\n",
            log.display()
        );
        let put = |path: &PathBuf, text: &str| {
            File::create(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        put(&config, &settings);
        let hosts = directory.join("hosts");
        put(&hosts, &format!("127.0.0.1 localhost {NAME}\n"));
        let script = r#"mount --bind "$1" /etc/hosts && exec tinyproxy -d -c "$2""#;
        let child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args([&hosts, &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            directory,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn target(&self, scheme: &str, server: &Peer, credentials: &str) -> Target {
        let proxy = Some(format!("http://{credentials}127.0.0.1:{}", self.port));
        let rules = ProxyRules {
            http_proxy: proxy,
            ..ProxyRules::default()
        };
        let target: Target = format!("{scheme}://{NAME}:{}/v1/opamp", server.port)
            .parse()
            .unwrap();
        target
            .with_proxies(rules)
            .with_header("authorization", "Bearer t")
            .unwrap()
    }
}

// R-174, R-177
#[tokio::test]
#[ignore = "needs root for a mount namespace, tinyproxy, and the server that tests/peers/build.sh builds"]
async fn a_proxy_with_a_password_leads_to_the_server_and_its_password_no_further() {
    for scheme in ["ws", "http"] {
        let server = Peer::opamp_go(0);
        let proxy = Proxy::start(&format!("right-{scheme}"));
        let target = proxy.target(scheme, &server, "user:s3cr%65t@");
        let client = Agent::with(&server.url(scheme), |config| config.target = target).await;
        let path = format!("/agents/{UID_TEXT}");
        server
            .until("it is known", &path, |agent| {
                agent["description"].is_object()
            })
            .await;
        client.stop().await;
        let connections = server.get("/connections").await;
        for one in connections.as_array().unwrap() {
            let headers = one["headers"].as_object().unwrap();
            assert_eq!(headers["Authorization"], "Bearer t");
            assert!(
                headers
                    .keys()
                    .all(|name| !name.to_ascii_lowercase().starts_with("proxy-")),
                "{headers:?}"
            );
        }
        // The tunnel is named; what goes through it is not the proxy's to know.
        let log = proxy.log();
        assert!(
            log.contains(&format!("CONNECT {NAME}:{} HTTP/1.1", server.port)),
            "{log}"
        );
        assert!(!log.contains("/v1/opamp"), "{log}");
    }
}

// R-174: whoever does not know the password is told which proxy refused with which status.
#[tokio::test]
#[ignore = "needs root for a mount namespace, tinyproxy, and the server that tests/peers/build.sh builds"]
async fn a_wrong_password_of_a_proxy_is_a_failure_with_its_name() {
    for credentials in ["user:wrong@", ""] {
        let server = Peer::opamp_go(0);
        let proxy = Proxy::start(&format!("wrong-{}", credentials.len()));
        let target = proxy.target("ws", &server, credentials);
        let mut client = Agent::with(&server.url("ws"), |config| config.target = target).await;
        // While the proxy starts nobody listens yet.
        let error = client
            .event("a refusal", |event| match event {
                ClientEvent::DialFailed { error, .. } => {
                    matches!(error, DialError::Proxy { .. }).then_some(error)
                }
                _ => None,
            })
            .await;
        let text = error.to_string();
        assert!(
            text.contains(&format!("127.0.0.1:{}", proxy.port)) && text.contains("status 40"),
            "{text}"
        );
        assert!(!text.contains("wrong"), "{text}");
        assert_eq!(server.get("/connections").await, serde_json::json!([]));
        client.stop().await;
    }
}
