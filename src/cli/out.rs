//! The only writer of the command line: results to standard output, problems and progress to standard error.
//!
//! Promises: a reader that went away ends the output quietly (`adjutant status | head`); no colour, ever.
//! Must never: panic because a terminal is gone.

use std::io::{IsTerminal as _, Write};

/// Where a command prints.
pub struct Out<'a> {
    stdout: Box<dyn Write + 'a>,
    stderr: Box<dyn Write + 'a>,
    progress: bool,
    closed: bool,
}

impl std::fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out")
            .field("progress", &self.progress)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Out<'static> {
    /// Prints to the process's own streams.
    pub fn process() -> Self {
        Self::new(
            std::io::stdout(),
            std::io::stderr(),
            std::io::stderr().is_terminal(),
        )
    }
}

impl<'a> Out<'a> {
    /// Prints to any two writers; `progress` says whether somebody watches.
    pub fn new(stdout: impl Write + 'a, stderr: impl Write + 'a, progress: bool) -> Self {
        Self {
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            progress,
            closed: false,
        }
    }

    /// Whether the reader of the results went away.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// One line of results.
    pub fn line(&mut self, line: &str) {
        self.text(&format!("{line}\n"));
    }

    /// Results as they are.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Results that may not be text.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let written = self
            .stdout
            .write_all(bytes)
            .and_then(|()| self.stdout.flush());
        self.closed |= written.is_err();
    }

    /// Why a command did not do what was asked; each line says who speaks.
    pub fn problem(&mut self, text: &str) {
        for line in text.lines() {
            self.raw_problem(&format!("adjutant: {line}\n"));
        }
    }

    /// A warning or usage text as it is.
    pub fn raw_problem(&mut self, text: &str) {
        // Nobody is left to be told when standard error is gone.
        drop(self.stderr.write_all(text.as_bytes()));
    }

    /// One line for somebody who watches a terminal.
    pub fn progress(&mut self, line: &str) {
        if self.progress {
            self.raw_problem(&format!("{line}\n"));
        }
    }
}
