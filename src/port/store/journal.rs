//! The journal of transactions: one JSON line each, appended and synced before the engine goes on.
//!
//! Promises: a record that was acknowledged is read back after any crash; a half line is never followed by a whole
//! one; the file is bounded.
//! Must never: continue on a file whose state after an error is unknown. It is cut back, or written anew, first.
//! Invariant: the first `len` bytes are a header and whole lines, all of them durable; `len == 0` means that no
//! journal is there.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::JOURNAL_BYTES_MAX;
use super::wire::{self, JournalHeader, JournalLine, Unreadable};
use crate::engine::message::Record;
use crate::sys::durable::{Disk, FILE_MODE, Kind, replace};
use crate::units::order;

/// A longer journal is compacted.
const COMPACT_ABOVE: u64 = 256 * 1024;
/// So many transactions stay.
const KEEP_TRANSACTIONS: usize = 50;
/// And so many lines, if one transaction was resumed again and again.
const KEEP_RECORDS: usize = 1000;

/// Writes the journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    len: u64,
    compact_above: u64,
    tail: Tail,
}

/// What lies behind the first `len` bytes.
#[derive(Debug)]
enum Tail {
    /// Nothing.
    Clean,
    /// Perhaps a part of a line; it has to be cut off first.
    Torn,
    /// The file was replaced, but nobody knows which of the two a crash would leave. An append to either may be
    /// lost; only another replacement helps, with the records that were acknowledged.
    Unsure(Vec<Record>),
}

/// What reading a journal brought.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) records: Vec<Record>,
    /// Bytes that are header and whole lines; 0 where there is no whole line.
    good_len: u64,
    /// Bytes behind them.
    torn: u64,
    /// Lines in the middle that are not ours.
    bad_lines: usize,
}

/// Reads a journal; one that is not there is empty.
pub(super) fn read<D: Disk>(disk: &D, path: &Path) -> io::Result<Result<Contents, Unreadable>> {
    if disk.kind(path)? == Kind::Absent {
        return Ok(parse(b""));
    }
    Ok(parse(&disk.read(path, JOURNAL_BYTES_MAX)?))
}

fn parse(bytes: &[u8]) -> Result<Contents, Unreadable> {
    let mut contents = Contents {
        records: Vec::new(),
        good_len: 0,
        torn: 0,
        bad_lines: 0,
    };
    let mut at = 0u64;
    let mut bad = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let header = at == 0;
        at = at.saturating_add(line.len() as u64);
        let whole = line.ends_with(b"\n");
        if header {
            // Without one nothing below can be trusted to be ours. One that stands alone is written anew.
            wire::check_format(line)?;
            continue;
        }
        match parse_line(line) {
            Ok(record) if whole => {
                contents.records.push(record);
                contents.good_len = at;
                contents.bad_lines = bad;
            }
            // Counted as damage only when a good line follows; at the end it is a torn tail.
            _ => bad += 1,
        }
    }
    contents.torn = at.saturating_sub(contents.good_len);
    Ok(contents)
}

fn parse_line(line: &[u8]) -> Result<Record, Unreadable> {
    wire::parse_body::<JournalLine>(line)?.try_into()
}

impl Journal {
    /// A journal when there is none yet; the first append creates it.
    pub(super) fn absent(path: PathBuf) -> Self {
        Self {
            path,
            len: 0,
            compact_above: COMPACT_ABOVE,
            tail: Tail::Clean,
        }
    }

    /// Takes over the journal of an earlier life: cuts off a torn line, makes durable what was read, drops old
    /// transactions.
    /// Notes what it repaired. A repair that the disk refuses is made up for before the next append.
    pub(super) fn take_over<D: Disk>(
        disk: &D,
        path: PathBuf,
        contents: &mut Contents,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut journal = Self::absent(path);
        if contents.good_len == 0 {
            return journal;
        }
        journal.len = contents.good_len;
        // Whole lines count as torn, too, until they are synced: an earlier life may have died between writing and
        // syncing.
        journal.tail = Tail::Torn;
        if contents.torn > 0 {
            notes.push(format!(
                "journal: {} bytes of an unfinished line ignored",
                contents.torn
            ));
        }
        if contents.bad_lines > 0 {
            notes.push(format!(
                "journal: {} unreadable lines skipped",
                contents.bad_lines
            ));
        }
        let repaired = if contents.bad_lines > 0 || journal.len > COMPACT_ABOVE {
            keep_recent(&mut contents.records);
            journal.rewrite(disk, &contents.records, None)
        } else {
            journal.cut(disk)
        };
        if let Err(error) = repaired {
            notes.push(format!("journal: not tidied up yet: {error}"));
        }
        journal
    }

    /// Appends one record durably.
    pub(super) fn append<D: Disk>(&mut self, disk: &D, record: &Record) -> io::Result<()> {
        if let Tail::Unsure(acknowledged) = &self.tail {
            let acknowledged = acknowledged.clone();
            return self.rewrite(disk, &acknowledged, Some(record));
        }
        if self.len == 0 {
            return self.rewrite(disk, &[], Some(record));
        }
        if matches!(self.tail, Tail::Torn) {
            self.cut(disk)?;
        }
        let line = print_line(record)?;
        if let Err(error) = disk.append(&self.path, &line) {
            self.tail = Tail::Torn;
            // Best effort now, and before the next append in any case. On a new descriptor: the old one has told
            // its error once.
            drop(self.cut(disk));
            return Err(error);
        }
        self.len = self.len.saturating_add(line.len() as u64);
        if self.len > self.compact_above && self.compact(disk).is_err() {
            // The record is durable already; that the file could not be made shorter is no reason to say otherwise.
            self.compact_above = self.len.saturating_mul(2);
        }
        Ok(())
    }

    fn cut<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        disk.truncate(&self.path, self.len)?;
        self.tail = Tail::Clean;
        Ok(())
    }

    fn compact<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        let mut records = match read(disk, &self.path)? {
            Ok(contents) => contents.records,
            Err(flaw) => return Err(io::Error::other(flaw.to_string())),
        };
        keep_recent(&mut records);
        self.rewrite(disk, &records, None)
    }

    /// Replaces the file. Only what was acknowledged before is kept if this fails half-way.
    fn rewrite<D: Disk>(
        &mut self,
        disk: &D,
        acknowledged: &[Record],
        new: Option<&Record>,
    ) -> io::Result<()> {
        let mut bytes = wire::print(&JournalHeader::new())?;
        bytes.push(b'\n');
        for record in acknowledged.iter().chain(new) {
            bytes.extend(print_line(record)?);
        }
        replace(disk, &self.path, &bytes, FILE_MODE)?;
        if let Err(error) = disk.sync_dir(self.path.parent().unwrap_or_else(|| Path::new("/"))) {
            self.tail = Tail::Unsure(acknowledged.to_vec());
            return Err(error);
        }
        self.tail = Tail::Clean;
        self.len = bytes.len() as u64;
        self.compact_above = COMPACT_ABOVE.max(self.len.saturating_mul(2));
        Ok(())
    }
}

fn print_line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = wire::print(&JournalLine::from(record))?;
    line.push(b'\n');
    Ok(line)
}

/// Drops the records of all but the last transactions.
fn keep_recent(records: &mut Vec<Record>) {
    let mut transactions: Vec<u64> = records.iter().map(|record| record.transaction).collect();
    order::sort(&mut transactions);
    transactions.dedup();
    let oldest = transactions.iter().nth_back(KEEP_TRANSACTIONS - 1);
    if let Some(oldest) = oldest.copied() {
        records.retain(|record| record.transaction >= oldest);
    }
    let surplus = records.len().saturating_sub(KEEP_RECORDS);
    records.drain(..surplus);
}
