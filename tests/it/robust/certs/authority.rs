//! A certificate authority: pebble with its DNS, on loopback ports of its own.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::super::rig::{Rig, have, lacks, wait_until};

/// Whether everything these scenarios need is on this machine.
pub(super) fn is_there() -> bool {
    ["pebble", "pebble-challtestsrv", "openssl"]
        .iter()
        .all(|program| have(lacks(program)))
}

/// Where an authority is, before and while it runs.
pub(super) struct Authority {
    directory: PathBuf,
    acme: u16,
    management: u16,
    /// Where it looks for challenges.
    pub(super) challenges: u16,
    dns: u16,
    dns_orders: u16,
    processes: Vec<Child>,
    /// How long its certificates live.
    pub(super) validity_seconds: u32,
    /// Of a hundred good nonces, how many it rejects.
    pub(super) rejected_nonces: u32,
    /// Where it finds every domain, unless it was told otherwise.
    pub(super) found_at: &'static str,
}

impl Authority {
    /// Chooses ports and makes its own certificate; nothing runs yet.
    pub(super) fn new(rig: &Rig) -> Self {
        let directory = rig.path().to_owned();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        rig.write("authority-ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&ca, &ca_key);
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        rig.write("pebble.pem", &own.pem());
        rig.write("pebble.key", &key.serialize_pem());
        let [acme, management, challenges, dns, dns_orders] = free_ports();
        Self {
            directory,
            acme,
            management,
            challenges,
            dns,
            dns_orders,
            processes: Vec::new(),
            validity_seconds: 90 * 24 * 60 * 60,
            rejected_nonces: 0,
            found_at: "127.0.0.1",
        }
    }

    /// Settings of the certificate `web` at this authority; `more` are further keys of it.
    pub(super) fn settings(&self, more: &str) -> String {
        format!(
            "certificates:
  web:
    source: acme
    retry_delay: 1s
    {more}
    acme:
      directory: https://localhost:{}/dir
      ca_file: '{{dir}}/authority-ca.pem'
      listen: 127.0.0.1:{}
      terms: accepted
      timeout: 30s
",
            self.acme, self.challenges
        )
    }

    /// Starts it and waits until it answers.
    pub(super) fn start(&mut self) {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.acme),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": path("pebble.pem"),
            "privateKey": path("pebble.key"),
            "httpPort": self.challenges,
            "tlsPort": 1,
            "certificateValidityPeriod": self.validity_seconds,
        }});
        let file = self.directory.join("pebble.json");
        serde_json::to_writer(File::create(&file).unwrap(), &config).unwrap();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &format!("127.0.0.1:{}", self.dns)])
            .args(["-management", &format!("127.0.0.1:{}", self.dns_orders)])
            .args(["-defaultIPv4", self.found_at, "-defaultIPv6", ""])
            .stdin(Stdio::null())
            .stdout(log(&self.directory, "dns.log"))
            .stderr(log(&self.directory, "dns.log"))
            .spawn()
            .unwrap();
        let pebble = Command::new("pebble")
            .arg("-config")
            .arg(&file)
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_VA_ALWAYS_VALID", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", self.rejected_nonces.to_string())
            .stdin(Stdio::null())
            .stdout(log(&self.directory, "pebble.log"))
            .stderr(log(&self.directory, "pebble.log"))
            .spawn()
            .unwrap();
        self.processes = vec![dns, pebble];
        for port in [self.acme, self.dns_orders] {
            wait_until("the authority", || {
                TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
            });
        }
    }

    /// Ends it; it forgets every account and order.
    pub(super) fn stop(&mut self) {
        for mut process in self.processes.drain(..) {
            // Gone already is what is wanted.
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Says where a domain is from now on.
    pub(super) fn place(&self, domain: &str, address: &str) {
        use std::io::{Read as _, Write as _};
        let body = serde_json::json!({"host": format!("{domain}."), "addresses": [address]});
        let body = body.to_string();
        let mut stream =
            TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.dns_orders))).unwrap();
        write!(
            stream,
            "POST /add-a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// How many certificates it issued.
    pub(super) fn issued(&self) -> usize {
        let log = std::fs::read_to_string(self.directory.join("pebble.log")).unwrap_or_default();
        log.matches("Issued certificate serial").count()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log(directory: &Path, name: &str) -> File {
    let path = directory.join(name);
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

/// Ports that nobody listens on at the moment.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
        .collect();
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}
