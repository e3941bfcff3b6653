//! One thread that appends lines to rotated files, so that nobody who has something to say waits for a disk.
//!
//! Promises: lines of one file are written in the order they were handed over; a line that finds the queue full, or a
//! disk that refuses, is dropped (the same line stands on standard error, or in the state that a door shows).
//! Must never: log; a line about a line that was not written would be written too.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::log_file::LogFile;

/// Lines that may wait for the disk.
const QUEUE_MAX: usize = 256;
/// Enough for a path and a line.
const STACK_BYTES: usize = 128 * 1024;

enum Job {
    Line(usize, Vec<u8>),
    Flush(SyncSender<()>),
}

/// The near end of one file.
#[derive(Debug, Clone)]
pub struct Lines {
    jobs: SyncSender<Job>,
    file: usize,
}

/// Starts the thread; one near end for each file.
///
/// # Errors
/// When the system has no thread for us.
pub(crate) fn start<const N: usize>(files: [LogFile; N]) -> io::Result<[Lines; N]> {
    let jobs = run(files.into_iter().collect())?;
    Ok(std::array::from_fn(|file| Lines {
        jobs: jobs.clone(),
        file,
    }))
}

/// Starts the thread for one file.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_one(file: LogFile) -> io::Result<Lines> {
    let jobs = run(vec![file])?;
    Ok(Lines { jobs, file: 0 })
}

fn run(mut files: Vec<LogFile>) -> io::Result<SyncSender<Job>> {
    let (jobs, queue): (_, Receiver<Job>) = sync_channel(QUEUE_MAX);
    let run = move || {
        for job in queue {
            match job {
                Job::Line(file, line) => {
                    if let Some(file) = files.get_mut(file) {
                        // Nobody to tell: see above.
                        drop(file.write(&line, false));
                    }
                }
                // Whoever waited may have lost patience.
                Job::Flush(done) => drop(done.try_send(())),
            }
        }
    };
    // Not joined: a thread in an uninterruptible write would take us with it.
    thread::Builder::new()
        .name("records".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)?;
    Ok(jobs)
}

impl Lines {
    /// Hands over a line, its end included. False when it was dropped.
    pub fn push(&self, line: Vec<u8>) -> bool {
        self.jobs.try_send(Job::Line(self.file, line)).is_ok()
    }

    /// The same for whoever may wait for the disk and must not lose a line. False when nobody writes any more.
    #[cfg(feature = "opampsupervisor")]
    pub fn push_waiting(&self, line: Vec<u8>) -> bool {
        self.jobs.send(Job::Line(self.file, line)).is_ok()
    }

    /// Waits until everything handed over before is written, or the patience is over.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        if self.jobs.try_send(Job::Flush(done)).is_ok() {
            // Patience is the point: a dead disk must not hold up the end.
            written.recv_timeout(patience).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rotation;

    #[test]
    fn lines_reach_their_files_in_order_and_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation {
            bytes: 40,
            files: 1,
        };
        let file = |name: &str| LogFile::new(dir.path().join(name), rotation);
        let [one, two] = start([file("one"), file("two")]).unwrap();
        for number in 0..6 {
            assert!(one.push(format!("line {number:03}\n").into_bytes()));
        }
        assert!(two.push(b"other\n".to_vec()));
        two.flush(Duration::from_secs(20));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("one.1"), "line 000\nline 001\nline 002\nline 003\n");
        assert_eq!(read("one"), "line 004\nline 005\n");
        assert_eq!(read("two"), "other\n");
    }

    #[test]
    fn a_disk_that_refuses_costs_the_line_and_nothing_else() {
        let rotation = Rotation {
            bytes: 40,
            files: 1,
        };
        let gone = LogFile::new("/nonexistent/directory/log".into(), rotation);
        let [lines] = start([gone]).unwrap();
        assert!(lines.push(b"x\n".to_vec()));
        lines.flush(Duration::from_secs(20));
        assert!(lines.push(b"y\n".to_vec()), "the thread lives on");
    }
}
