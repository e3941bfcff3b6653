//! `config export`: what runs, or another revision, as files that `apply` takes again.
//!
//! Promises: every layer that somebody wrote is there, byte for byte, secrets included, and nothing that we generate;
//! applied again it gives the same config. Files are readable by their owner alone; nothing that is there is
//! overwritten; what did not come to its end says so.
//! Must never: read the state directory behind the supervisor's back, or write secrets to a terminal.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path};

use super::{Done, ExitCode, Failure, Out, config};
use crate::port::admin::client::Client;
use crate::port::admin::wire::{ContentDocument, FileDocument};
use crate::units::{AgentName, RevisionId};

/// Bytes of a block of a tar archive.
const BLOCK: usize = 512;
/// Bytes that the old tar header has for a name.
const NAME_MAX: usize = 100;
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// A file as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Exported {
    name: String,
    bytes: Vec<u8>,
}

pub(super) async fn export(
    client: &Client,
    agent: Option<&AgentName>,
    revision: Option<&RevisionId>,
    target: &Path,
    out: &mut Out<'_>,
) -> Done {
    let to_stream = target == Path::new("-");
    if to_stream && io::stdout().is_terminal() {
        return Err(Failure::new(
            ExitCode::Usage,
            "an archive may hold secrets and is not for a terminal; write it to a file or a pipe",
        ));
    }
    let document = config::read(client, agent, revision).await?;
    let files = exported(&document).map_err(|reason| Failure::new(ExitCode::Failed, reason))?;
    if files.is_empty() {
        let reason = format!("revision {} holds no file that somebody wrote", document.id);
        return Err(Failure::new(ExitCode::Failed, reason));
    }
    if to_stream {
        let archive = tar(&files).map_err(|reason| Failure::new(ExitCode::Failed, reason))?;
        out.bytes(&archive);
        return Ok(ExitCode::Ok);
    }
    write(target, &files).map_err(|reason| Failure::new(ExitCode::Failed, reason))?;
    out.line(&format!(
        "{} files of revision {} written to {}",
        files.len(),
        document.id,
        target.display()
    ));
    Ok(ExitCode::Ok)
}

/// The files that somebody wrote, under names that keep their order when they are applied again.
fn exported(document: &ContentDocument) -> Result<Vec<Exported>, String> {
    // Only what is composed of layers has a generated one: there the order of files counts, and applied files are taken
    // in the order of their names.
    let layered = document.files.iter().any(|file| file.layer == "generated");
    let written = document
        .files
        .iter()
        .filter(|file| matches!(file.layer.as_str(), "local" | "remote"));
    let mut files = Vec::new();
    for (number, file) in written.enumerate() {
        let name = if layered {
            in_order(number, file)
        } else {
            file.name.clone()
        };
        let plain = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(format!("{name:?} is no name for a file"));
        }
        let bytes = file.bytes()?;
        files.push(Exported { name, bytes });
    }
    Ok(files)
}

/// A name that sorts as the layer stands. What is no config by its name is read by its name and keeps it.
fn in_order(number: usize, file: &FileDocument) -> String {
    let inner = file
        .name
        .split_once('/')
        .map_or(&*file.name, |(_, rest)| rest);
    let extension = Path::new(inner).extension().and_then(|end| end.to_str());
    let config = extension.is_none_or(|end| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| end.eq_ignore_ascii_case(known))
    });
    if config {
        // A local layer carries its number among the local ones already.
        let numbered = inner.split_once('-').filter(|(head, _)| {
            file.layer == "local" && head.chars().all(|digit| digit.is_ascii_digit())
        });
        let inner = numbered.map_or(inner, |(_, rest)| rest);
        format!("{number:03}-{}-{}", file.layer, inner.replace('/', "-"))
    } else {
        inner.to_owned()
    }
}

fn write(target: &Path, files: &[Exported]) -> Result<(), String> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("write {path}: {error}")
    };
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(format!("{} is not empty", target.display()));
        }
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .mode(DIR_MODE)
                .create(target)
                .map_err(failed(target))?;
        }
        Err(error) => return Err(failed(target)(error)),
    }
    for file in files {
        let path = target.join(&file.name);
        if let Some(parent) = path.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(DIR_MODE);
            builder.create(parent).map_err(failed(parent))?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            .and_then(|mut out| out.write_all(&file.bytes))
            .map_err(failed(&path))?;
    }
    Ok(())
}

/// A ustar archive of plain files.
fn tar(files: &[Exported]) -> Result<Vec<u8>, String> {
    let mut archive = Vec::new();
    for file in files {
        archive.extend(header(file)?);
        archive.extend(&file.bytes);
        let rest = file.bytes.len() % BLOCK;
        if rest > 0 {
            archive.resize(archive.len() + BLOCK - rest, 0);
        }
    }
    // Two empty blocks end it.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn header(file: &Exported) -> Result<[u8; BLOCK], String> {
    if file.name.len() > NAME_MAX {
        return Err(format!(
            "{}: a name in an archive has at most {NAME_MAX} bytes, export to a directory instead",
            file.name
        ));
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in header.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, file.name.as_bytes());
    put(100, format!("{FILE_MODE:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", file.bytes.len()).as_bytes());
    put(136, b"00000000000\0");
    // The checksum counts its own field as blanks.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (place, byte) in header
        .iter_mut()
        .skip(148)
        .zip(format!("{sum:06o}\0 ").as_bytes())
    {
        *place = *byte;
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(layer: &str, name: &str, text: &str) -> FileDocument {
        FileDocument {
            layer: layer.to_owned(),
            ..FileDocument::new(name, text.as_bytes().to_vec())
        }
    }

    fn document(files: Vec<FileDocument>) -> ContentDocument {
        ContentDocument {
            id: "1700000000000-00c0ffee".to_owned(),
            hash: String::new(),
            origin: "offer".to_owned(),
            at: String::new(),
            files,
        }
    }

    fn names(files: Vec<FileDocument>) -> Vec<String> {
        let files = exported(&document(files)).unwrap();
        files.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn layers_keep_their_order_and_what_we_generate_stays_behind() {
        let files = vec![
            file("local", "local/0-base.yaml", "a"),
            file("remote", "remote/b.yaml", "b"),
            file("remote", "remote/sub/config.yaml", "c"),
            file("remote", "remote/ssl_certificate_host.txt", "d"),
            file("local", "local/1-enforced.yaml", "e"),
            file("generated", "adjutant/overlay.yaml", "f"),
            file("marker", "adjutant/revision.yaml", "g"),
        ];
        let wanted = [
            "000-local-base.yaml",
            "001-remote-b.yaml",
            "002-remote-sub-config.yaml",
            "ssl_certificate_host.txt",
            "004-local-enforced.yaml",
        ];
        assert_eq!(names(files), wanted);
    }

    #[test]
    fn files_that_are_found_by_name_keep_it() {
        let files = vec![
            file("remote", "collect.yaml", "a"),
            file("local", "tls/ca.pem", "b"),
            file("marker", "adjutant.revision", "c"),
        ];
        assert_eq!(names(files), ["collect.yaml", "tls/ca.pem"]);
        let outside = document(vec![file("remote", "../x", "a")]);
        assert!(
            exported(&outside)
                .unwrap_err()
                .contains("no name for a file")
        );
    }

    #[test]
    fn nothing_that_is_there_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = [Exported {
            name: "a/b.yaml".to_owned(),
            bytes: b"x".to_vec(),
        }];
        let fresh = dir.path().join("fresh");
        write(&fresh, &files).unwrap();
        assert_eq!(std::fs::read(fresh.join("a/b.yaml")).unwrap(), b"x");
        assert!(write(&fresh, &files).unwrap_err().ends_with("is not empty"));
        let gone = dir.path().join("not/there");
        assert!(write(&gone, &files).unwrap_err().starts_with("write "));
    }

    #[test]
    fn archive_is_one_that_tar_reads() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            Exported {
                name: "a.yaml".to_owned(),
                bytes: b"hello\n".to_vec(),
            },
            Exported {
                name: "sub/b.yaml".to_owned(),
                bytes: vec![b'x'; 1024],
            },
        ];
        let path = dir.path().join("a.tar");
        let mut out = std::fs::File::create(&path).unwrap();
        out.write_all(&tar(&files).unwrap()).unwrap();
        let done = std::process::Command::new("tar")
            .arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(
            std::fs::read(dir.path().join("a.yaml")).unwrap(),
            b"hello\n"
        );
        assert_eq!(
            std::fs::read(dir.path().join("sub/b.yaml")).unwrap().len(),
            1024
        );
        let long = Exported {
            name: "x".repeat(101),
            bytes: Vec::new(),
        };
        assert!(tar(&[long]).unwrap_err().contains("at most 100 bytes"));
    }
}
