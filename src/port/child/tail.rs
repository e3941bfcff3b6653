//! The last words of a child or a tool, in bounded memory.
//!
//! Promises: at most [`LINES`] lines and [`BYTES`] bytes over both streams; a longer line keeps its first [`LINE`]
//! bytes.
//! Must never: change what goes to the log; this is a copy for the report.

use std::collections::VecDeque;

/// Lines kept.
const LINES: usize = 64;
/// Bytes kept, line ends included.
const BYTES: usize = 16 * 1024;
/// Bytes of one line kept.
const LINE: usize = 1024;
/// What stands for the rest of a line.
const CUT: &str = "…";

/// The last lines of two streams, in the order in which they were completed.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    open: [Line; 2],
}

/// A line whose end has not come yet.
#[derive(Debug, Default)]
struct Line {
    head: Vec<u8>,
    length: usize,
}

impl Line {
    fn add(&mut self, part: &[u8]) {
        let room = LINE.saturating_sub(self.head.len());
        self.head.extend(part.iter().take(room));
        self.length = self.length.saturating_add(part.len());
    }

    fn take(&mut self) -> Vec<u8> {
        let cut = self.length > self.head.len();
        self.length = 0;
        let mut head = std::mem::take(&mut self.head);
        if cut {
            head.extend(CUT.as_bytes());
        }
        head
    }
}

impl Tail {
    /// Takes bytes of one stream (0 or 1) as they came.
    pub(super) fn add(&mut self, stream: usize, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = part.strip_suffix(b"\n");
            if let Some(line) = self.open.get_mut(stream) {
                line.add(ended.unwrap_or(part));
                if ended.is_some() {
                    let line = line.take();
                    self.keep(line);
                }
            }
        }
    }

    fn keep(&mut self, line: Vec<u8>) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// Hands out what is kept, unfinished lines included, and starts anew.
    pub(super) fn take(&mut self) -> String {
        for stream in 0..self.open.len() {
            if let Some(line) = self.open.get_mut(stream)
                && line.length > 0
            {
                let line = line.take();
                self.keep(line);
            }
        }
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        let lines: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        lines.join("\n")
    }
}

/// The last bytes of a tool's output, both streams in one.
#[derive(Debug)]
pub(super) struct LastBytes {
    bytes: Vec<u8>,
    max: usize,
}

impl LastBytes {
    /// Keeps at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max,
        }
    }

    /// Takes bytes as they came; those that no longer fit fall out at the front.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        // Moving the rest to the front only now and then keeps a flood linear.
        if self.bytes.len() > self.max.saturating_mul(2) {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let excess = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..excess);
    }

    /// What is kept, as text. A character cut in half at the front is left out.
    pub(super) fn take(&mut self) -> String {
        let cut = self.bytes.len() > self.max;
        self.trim();
        let bytes = std::mem::take(&mut self.bytes);
        let continuation = |byte: &&u8| cut && (**byte & 0xC0) == 0x80;
        let skip = bytes.iter().take(3).take_while(continuation).count();
        String::from_utf8_lossy(bytes.get(skip..).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_both_streams_stay_in_order_and_unfinished_ones_come_last() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.add(number % 2, format!("line {number}\n").as_bytes());
        }
        tail.add(1, b"no e");
        tail.add(0, b"after\n");
        tail.add(1, b"nd");
        let text = tail.take();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[LINES - 3..], ["line 99", "after", "no end"]);
        assert_eq!(tail.take(), "");
    }

    #[test]
    fn long_lines_are_cut_and_bytes_are_bounded() {
        let mut tail = Tail::default();
        for _ in 0..40 {
            tail.add(0, &[b'x'; 700]);
            tail.add(0, &[b'x'; 700]);
            tail.add(0, b"\n");
        }
        let text = tail.take();
        assert!(text.len() <= BYTES, "{}", text.len());
        let last = text.lines().next_back().unwrap();
        assert_eq!(last.len(), LINE + CUT.len());
        assert!(last.ends_with(CUT));
    }

    #[test]
    fn a_tools_output_keeps_its_end_and_whole_characters() {
        let mut last = LastBytes::new(5);
        for _ in 0..10 {
            last.add("abéé".as_bytes());
        }
        assert_eq!(last.take(), "béé");
        last.add(b"abc");
        assert_eq!(last.take(), "abc");
        let mut none = LastBytes::new(0);
        none.add(b"abc");
        assert_eq!(none.take(), "");
    }
}
