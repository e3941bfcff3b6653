//! Given destinations; when their layer is written; then a Collector is told all of it or none, and no secret
//! stands there.

use hyper::HeaderMap;
use hyper::header::HeaderValue;
use opamp_client::transport::{ClientCertificate, TlsOptions};

use super::*;
use crate::yaml::{self, Limits};

fn destination(endpoint: &str) -> Destination {
    Destination {
        endpoint: endpoint.to_owned(),
        ..Destination::default()
    }
}

fn one(class: Class, destination: &Destination) -> (String, Vec<Material>) {
    let exporter = exporter(&class, destination).unwrap();
    let material = exporter.material.clone();
    (layer(&[(class, exporter)].into()).unwrap(), material)
}

#[test]
fn each_signal_has_its_own_reader_or_processor() {
    let exporters = [Class::OwnMetrics, Class::OwnTraces, Class::OwnLogs].map(|class| {
        let destination = destination(&format!("http://it/{class}"));
        let exporter = exporter(&class, &destination).unwrap();
        (class, exporter)
    });
    let text = layer(&BTreeMap::from(exporters)).unwrap();
    let tree = yaml::parse("layer", &text, Limits::OFFERED).unwrap();
    for (path, wanted) in [
        (["metrics", "readers", "periodic"], "http://it/own_metrics"),
        (["traces", "processors", "batch"], "http://it/own_traces"),
        (["logs", "processors", "batch"], "http://it/own_logs"),
    ] {
        let [signal, list, kind] = path;
        let entries = tree.at(&["service", "telemetry", signal, list]).unwrap();
        let endpoint = entries.items()[0].at(&[kind, "exporter", "otlp", "endpoint"]);
        assert_eq!(endpoint.and_then(yaml::Node::text), Some(wanted), "{text}");
    }
    assert_eq!(layer(&BTreeMap::new()), None);
}

#[test]
fn secrets_stand_in_files_and_not_in_the_layer() {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer s3cret$x"));
    let (text, material) = one(
        Class::OwnLogs,
        &Destination {
            headers,
            tls: TlsOptions {
                ca_pem: Some(b"the authority".to_vec()),
                client_certificate: Some(ClientCertificate {
                    chain_pem: b"the chain".to_vec(),
                    key_pem: b"the key".to_vec(),
                }),
                ..TlsOptions::default()
            },
            ..destination("https://it:4318/v1/logs?a=$b")
        },
    );
    for secret in ["s3cret", "the chain", "the key"] {
        assert!(!text.contains(secret), "{text}");
        assert!(!format!("{material:?}").contains(secret));
    }
    let contents: Vec<&[u8]> = material.iter().map(|file| file.bytes.as_slice()).collect();
    let wanted = ["Bearer s3cret$x", "the authority", "the chain", "the key"];
    assert_eq!(contents, wanted.map(str::as_bytes));
    for file in &material {
        assert!(
            text.contains(&format!("${{env:ADJUTANT_TELEMETRY_DIR}}/{}", file.name)),
            "{text}"
        );
    }
    // A Collector would take `$b` for a reference.
    assert!(text.contains("\"https://it:4318/v1/logs?a=$$b\""), "{text}");
}

#[test]
fn own_telemetry_tls_is_honoured_or_refused_by_name_never_ignored() {
    let tls = |tls: TlsOptions| Destination {
        tls,
        ..destination("https://it/v1/metrics")
    };
    let none = TlsOptions::default;
    let cases = [
        (
            "tls.min_version",
            tls(TlsOptions {
                min_version: Some(TlsVersion::V1_3),
                ..none()
            }),
        ),
        (
            "tls.max_version",
            tls(TlsOptions {
                max_version: Some(TlsVersion::V1_2),
                ..none()
            }),
        ),
        (
            "tls.cipher_suites",
            tls(TlsOptions {
                cipher_suites: vec!["TLS_AES_256_GCM_SHA384".into()],
                ..none()
            }),
        ),
        (
            "tls.insecure_skip_verify",
            tls(TlsOptions {
                insecure_skip_verify: true,
                ..none()
            }),
        ),
        (
            "tls.include_system_ca_certs_pool",
            tls(TlsOptions {
                ca_pem: Some(b"x".to_vec()),
                include_system_roots: true,
                ..none()
            }),
        ),
        (
            "proxy",
            Destination {
                proxies: ProxyRules {
                    http_proxy: Some("http://proxy:3128".into()),
                    ..ProxyRules::default()
                },
                ..destination("http://it/v1/metrics")
            },
        ),
    ];
    for (field, destination) in cases {
        let refused = exporter(&Class::OwnMetrics, &destination).unwrap_err();
        let wanted = format!("own_metrics.{field}: the agent's own exporter has no such setting");
        assert_eq!(refused, wanted);
    }
    let plain = tls(TlsOptions {
        min_version: Some(TlsVersion::V1_2),
        ..none()
    });
    assert!(exporter(&Class::OwnMetrics, &plain).is_ok());
}

#[test]
fn one_content_has_one_name_and_another_has_another() {
    assert_eq!(Material::new(b"a").name, Material::new(b"a").name);
    assert_ne!(Material::new(b"a").name, Material::new(b"b").name);
    assert_eq!(Material::new(b"a").name.len(), 32);
}
