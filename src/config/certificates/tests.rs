//! What `certificates:` accepts and refuses, each with its sentence.

use std::time::Duration;

use super::super::{
    Certificate, CertificateSource, Config, ConfigErrors, Domains, Overrides, load,
};
use super::domains_of;
use crate::config::Environment;

struct House;

impl Environment for House {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/u".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::other(path.to_owned()))
    }

    fn own_executable(&self) -> std::path::PathBuf {
        "/proc/self/exe".into()
    }

    fn is_root(&self) -> bool {
        true
    }

    fn is_executable(&self, _: &std::path::Path) -> bool {
        true
    }
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    load("s.yaml", text, &House, &Overrides::default())
}

fn one(text: &str) -> Certificate {
    let mut config = read(&format!("certificates: {{web: {text}}}\n")).unwrap();
    config.certificates.remove(0)
}

#[test]
#[cfg(feature = "acme")]
fn an_authority_needs_a_domain_and_the_accepted_terms_and_nothing_else() {
    let web = one("{source: acme, domains: [WWW.example.com], acme: {terms: accepted}}");
    let CertificateSource::Acme(acme) = &web.source else {
        panic!("{web:?}");
    };
    assert_eq!(
        acme.directory,
        "https://acme-v02.api.letsencrypt.org/directory"
    );
    assert_eq!(acme.listen.to_string(), "[::]:80");
    assert_eq!(
        web.domains,
        Domains::Fixed(vec!["www.example.com".parse().unwrap()])
    );
    assert_eq!(web.check_interval, Duration::from_hours(6));
    assert_eq!(web.retry_delay, Duration::from_mins(15));
}

#[test]
fn domains_of_a_bundle_belong_to_an_agent_which_is_not_given_the_file() {
    let text = "agents: {a: {}, b: {}}
certificates:
  web:
    source: files
    files: {certificate: /c, key: /k}
    domains_from: {agent: b}
";
    let config = read(text).unwrap();
    let file = "ssl_certificate_host.txt".to_owned();
    let agent = "b".parse().unwrap();
    let wanted = Domains::FromBundle {
        agent,
        file: file.clone(),
    };
    assert_eq!(config.certificates[0].domains, wanted);
    assert!(config.agents[0].domain_files.is_empty());
    assert_eq!(config.agents[1].domain_files, [file]);
}

#[test]
fn mistakes_are_sentences_with_their_place() {
    let files = "files: {certificate: /c, key: /k}";
    let cases = [
        (
            format!("{{{files}}}"),
            "certificates.web: a certificate needs a `source`: acme or files",
        ),
        (
            "{source: files}".to_owned(),
            "certificates.web.files: `source: files` needs `certificate` and `key`",
        ),
        (
            format!("{{source: files, {files}, domains: [a.b], domains_from: {{}}}}"),
            "certificates.web.domains_from: `domains` says it already, keep one of them",
        ),
        (
            format!("{{source: files, {files}, domains: ['*.a.b']}}"),
            "certificates.web.domains[0]: domain \"*.a.b\" is not a DNS name such as a.example.com (no wildcard, no address)",
        ),
        (
            format!("{{source: files, {files}, agents: [x]}}"),
            "certificates.web.agents[0]: no agent of this name, known: collector",
        ),
        (
            format!("{{source: files, {files}, renew_at_percent: 99}}"),
            "certificates.web.renew_at_percent: out of bounds, write 10 to 95",
        ),
    ];
    for (text, wanted) in cases {
        let errors = read(&format!("certificates: {{web: {text}}}\n"))
            .unwrap_err()
            .to_string();
        assert!(errors.contains(wanted), "{text}: {errors}");
    }
    let errors = read("certificates: {Web: {source: files, files: {certificate: /c, key: /k}}}\n");
    let errors = errors.unwrap_err().to_string();
    assert!(
        errors.contains("certificate name \"Web\" is not 1 to 63 of a-z"),
        "{errors}"
    );
}

#[test]
#[cfg(feature = "acme")]
fn an_authority_is_not_asked_on_less_than_an_explicit_word() {
    let cases = [
        (
            "{source: acme, domains: [a.b]}",
            "certificates.web.acme: read the authority's terms and write `acme: {terms: accepted}`",
        ),
        (
            "{source: acme, acme: {terms: accepted}}",
            "certificates.web: a certificate needs `domains`, or `domains_from`",
        ),
        (
            "{source: acme, domains: [a.b], acme: {terms: accepted, directory: 'http://x/'}}",
            "certificates.web.acme.directory: begin the URL with https://",
        ),
        (
            "{source: acme, domains: [a.b], acme: {terms: accepted, contact: ops}}",
            "certificates.web.acme.contact: a mail address such as ops@example.com belongs here",
        ),
    ];
    for (text, wanted) in cases {
        let errors = read(&format!("certificates: {{web: {text}}}\n"))
            .unwrap_err()
            .to_string();
        assert!(errors.contains(wanted), "{text}: {errors}");
    }
}

#[test]
#[cfg(not(feature = "acme"))]
fn a_build_without_acme_says_so() {
    let text = "certificates: {web: {source: acme, domains: [a.b], acme: {terms: accepted}}}\n";
    let errors = read(text).unwrap_err().to_string();
    assert!(
        errors.contains("this build cannot ask certificate authorities"),
        "{errors}"
    );
}

#[test]
fn an_entry_of_a_bundle_names_a_domain_a_line() {
    let names = |text| {
        let domains = domains_of(text)?;
        Ok::<_, String>(domains.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        names(" a.test \r\n\nB.test\na.test"),
        Ok(vec!["a.test".to_owned(), "b.test".to_owned()])
    );
    assert_eq!(names(" \n"), Ok(vec![]));
    assert!(
        names("a b")
            .unwrap_err()
            .starts_with("domain \"a b\" is not a DNS name")
    );
}
