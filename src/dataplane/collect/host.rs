//! Reads the host's `/proc` and `/sys` under a root prefix, and holds what all host collectors share.
//!
//! Promises: every path goes through the prefix; one buffer is reused for every file; a file has a size limit; a
//! counter that went back costs one sample and never yields a negative or absurd rate.
//! Must never: leave the prefix, or cache a value between two scrapes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataplane::record::{Attributes, Metric, Number, Point, Record};
use crate::units::WallTime;

/// A kernel table larger than this is not read to its end.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A reading that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The kernel's file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file, with the prefix.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's file does not say what it always says.
    #[error("{path} {what}")]
    Shape {
        /// The file, with the prefix.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// One part of the host that is measured.
pub(crate) trait Collector: Send {
    /// Its name in settings and health.
    fn name(&self) -> &'static str;

    /// Takes one reading. What was pushed before an error stays.
    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError>;
}

/// The host's files under a prefix.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    buffer: Vec<u8>,
}

impl Files {
    /// Reads below `root`.
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            buffer: Vec::with_capacity(16 * 1024),
        }
    }

    /// The full path of a file such as `proc/stat`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Whether a prefix is in force.
    pub(crate) fn has_prefix(&self) -> bool {
        self.root != Path::new("/")
    }

    /// Reads one file; the text is valid until the next call. Bytes that are no UTF-8 end it.
    pub(crate) fn read(&mut self, relative: &str) -> Result<&str, CollectError> {
        let path = self.path(relative);
        self.buffer.clear();
        File::open(&path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut self.buffer))
            .map_err(|source| CollectError::Read { path, source })?;
        Ok(match std::str::from_utf8(&self.buffer) {
            Ok(text) => text,
            Err(error) => self
                .buffer
                .get(..error.valid_up_to())
                .and_then(|valid| std::str::from_utf8(valid).ok())
                .unwrap_or_default(),
        })
    }

    /// An error that names the file.
    pub(crate) fn shape(&self, relative: &str, what: &'static str) -> CollectError {
        CollectError::Shape {
            path: self.path(relative),
            what,
        }
    }
}

/// The points of one scrape; all carry its time.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// When the scrape began.
    pub(crate) now: WallTime,
    /// What was measured so far.
    pub(crate) records: Vec<Record>,
}

impl Scrape {
    /// Begins a scrape.
    pub(crate) const fn at(now: WallTime) -> Self {
        Self {
            now,
            records: Vec::new(),
        }
    }

    /// Adds a level.
    pub(crate) fn gauge(&mut self, metric: &'static Metric, value: Number, of: Attributes) {
        self.push(metric, value, of, self.now);
    }

    /// Adds a cumulative sum that counts since `start`.
    pub(crate) fn sum(
        &mut self,
        metric: &'static Metric,
        value: Number,
        of: Attributes,
        start: WallTime,
    ) {
        self.push(metric, value, of, start);
    }

    fn push(
        &mut self,
        metric: &'static Metric,
        value: Number,
        attributes: Attributes,
        start: WallTime,
    ) {
        self.records.push(Record::Point(Point {
            metric,
            attributes,
            value,
            time: self.now,
            start,
        }));
    }
}

/// The counters of one thing as they stood last time.
#[derive(Debug, Clone)]
pub(crate) struct Baseline<const N: usize> {
    /// The name, shared with every point made of it.
    pub(crate) name: Arc<str>,
    last: [u64; N],
    start: WallTime,
    seen: bool,
}

impl<const N: usize> Baseline<N> {
    /// Begins to watch a thing.
    pub(crate) fn first(name: &str, counters: [u64; N], now: WallTime) -> Self {
        Self {
            name: name.into(),
            last: counters,
            start: now,
            seen: true,
        }
    }

    /// Takes the next reading: the time the sums count from, or nothing when any counter went back — the thing was
    /// reset or wrapped; this sample is skipped and the next one counts from here.
    pub(crate) fn advance(&mut self, counters: [u64; N], now: WallTime) -> Option<WallTime> {
        self.seen = true;
        let back = counters
            .iter()
            .zip(&self.last)
            .any(|(next, last)| next < last);
        self.last = counters;
        if back {
            self.start = now;
            return None;
        }
        Some(self.start)
    }

    /// Whether it was seen since the last call.
    pub(crate) fn take_seen(&mut self) -> bool {
        std::mem::take(&mut self.seen)
    }
}

/// Splits off as many numbers as asked; missing or garbled ones make the whole line nothing.
pub(crate) fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut words = text.split_ascii_whitespace();
    let mut values = [0; N];
    for value in &mut values {
        *value = words.next()?.parse().ok()?;
    }
    Some(values)
}

#[cfg(test)]
pub(super) mod testing {
    //! A scripted host: files in a temporary directory and one scrape over them.

    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;

    pub(in crate::dataplane) struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        pub(in crate::dataplane) fn new(files: &[(&str, &str)]) -> Self {
            let host = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            for (path, text) in files {
                host.put(path, text);
            }
            host
        }

        pub(in crate::dataplane) fn root(&self) -> &Path {
            self.dir.path()
        }

        pub(in crate::dataplane) fn put(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }

        /// One scrape as sorted lines `name{attributes} value`.
        pub(in crate::dataplane) fn scrape(
            &self,
            collector: &mut dyn Collector,
            at_ms: u64,
        ) -> Result<Vec<String>, String> {
            let mut files = Files::below(self.dir.path());
            let mut out = Scrape::at(WallTime::from_unix_millis(at_ms));
            collector
                .collect(&mut files, &mut out)
                .map_err(|error| error.to_string())?;
            Ok(lines(&out.records))
        }
    }

    pub(in crate::dataplane) fn lines(records: &[Record]) -> Vec<String> {
        let mut lines: Vec<_> = records
            .iter()
            .map(|record| {
                let Record::Point(point) = record else {
                    panic!("host metrics are points")
                };
                let of: Vec<_> = point
                    .attributes
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let value = match point.value {
                    Number::Int(value) => value.to_string(),
                    Number::Float(value) => value.to_string(),
                };
                format!("{}{{{}}} {value}", point.metric.name, of.join(","))
            })
            .collect();
        lines.sort();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_goes_back_skips_one_sample_and_counts_anew() {
        let at = WallTime::from_unix_millis;
        let mut baseline = Baseline::first("x", [10, 10], at(1));
        assert_eq!(baseline.advance([20, 10], at(2)), Some(at(1)));
        assert_eq!(baseline.advance([20, 5], at(3)), None);
        assert_eq!(baseline.advance([20, 6], at(4)), Some(at(3)));
    }

    #[test]
    fn a_missing_file_is_named_with_its_prefix() {
        let mut files = Files::below(Path::new("/nonexistent"));
        let error = files.read("proc/stat").unwrap_err().to_string();
        assert!(
            error.starts_with("read /nonexistent/proc/stat: "),
            "{error}"
        );
    }
}
