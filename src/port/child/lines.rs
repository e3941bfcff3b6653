//! Puts the lines of several streams into one sink without mixing them.
//!
//! Promises: bytes of a stream stay unchanged and in order; a line of any length goes out in one piece as long as the
//! other streams of the sink can wait; at most [`HOLD`] bytes of a stream wait, plus one read.
//! Must never: wait for the end of a line for ever. When a stream cannot wait any longer, the unfinished line of
//! another is ended with a line break and counted: holding back would block the child that writes both.

/// Bytes of a stream that may wait for the end of their own line or of another's.
pub(super) const HOLD: usize = 64 * 1024;
/// Memory that an idle stream may keep.
const KEEP: usize = 4 * 1024;

/// A stream that feeds a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamId(pub(super) u64);

/// What a sink must remember: whose line is unfinished in it.
#[derive(Debug, Default)]
pub(super) struct SinkState {
    unfinished: Option<StreamId>,
    /// Lines that had to be ended early.
    pub(super) split_lines: u64,
}

impl SinkState {
    /// Whether a line is unfinished.
    pub(super) fn is_inside_line(&self) -> bool {
        self.unfinished.is_some()
    }
}

/// Bytes that are written next; the flag says that they continue a line of the same stream.
pub(super) type Write<'a> = dyn FnMut(&[u8], bool) + 'a;

/// Bytes of one stream that have not gone out.
#[derive(Debug)]
pub(super) struct Held {
    id: StreamId,
    bytes: Vec<u8>,
}

impl Held {
    /// Nothing waits.
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            bytes: Vec::new(),
        }
    }

    /// Whether something waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Takes bytes as they came.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Writes what may go out now.
    pub(super) fn deliver(&mut self, sink: &mut SinkState, write: &mut Write<'_>) {
        if sink.unfinished == Some(self.id) {
            let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
                if !self.bytes.is_empty() {
                    write(&self.bytes, true);
                }
                self.shed(self.bytes.len());
                return;
            };
            if let Some(rest_of_line) = self.bytes.get(..=end) {
                write(rest_of_line, true);
            }
            sink.unfinished = None;
            self.shed(end + 1);
        } else if sink.is_inside_line() {
            if self.bytes.len() < HOLD {
                return;
            }
            Self::end_unfinished(sink, write);
        }
        if let Some(end) = self.bytes.iter().rposition(|byte| *byte == b'\n') {
            if let Some(lines) = self.bytes.get(..=end) {
                write(lines, false);
            }
            self.shed(end + 1);
        }
        if self.bytes.len() >= HOLD {
            write(&self.bytes, false);
            sink.unfinished = Some(self.id);
            self.shed(self.bytes.len());
        }
    }

    /// Writes everything, and ends the last line: the stream's child is gone.
    pub(super) fn finish(&mut self, sink: &mut SinkState, write: &mut Write<'_>) {
        if sink.unfinished != Some(self.id) && sink.is_inside_line() && self.is_waiting() {
            Self::end_unfinished(sink, write);
        }
        self.deliver(sink, write);
        if sink.unfinished == Some(self.id) {
            write(b"\n", true);
            sink.unfinished = None;
        } else if self.is_waiting() {
            self.bytes.push(b'\n');
            write(&self.bytes, false);
            self.shed(self.bytes.len());
        }
    }

    /// Writes what waits without ending its line: we go, and our next life reads the rest of it.
    pub(super) fn hand_over(&mut self, sink: &mut SinkState, write: &mut Write<'_>) {
        if sink.unfinished.is_some_and(|owner| owner != self.id) && self.is_waiting() {
            Self::end_unfinished(sink, write);
        }
        self.deliver(sink, write);
        if self.is_waiting() {
            write(&self.bytes, false);
            sink.unfinished = Some(self.id);
            self.shed(self.bytes.len());
        }
    }

    fn end_unfinished(sink: &mut SinkState, write: &mut Write<'_>) {
        write(b"\n", true);
        sink.unfinished = None;
        sink.split_lines = sink.split_lines.saturating_add(1);
    }

    fn shed(&mut self, length: usize) {
        self.bytes.drain(..length);
        if self.bytes.len() < KEEP && self.bytes.capacity() > HOLD {
            self.bytes.shrink_to(KEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Two {
        sink: SinkState,
        streams: [Held; 2],
        out: Vec<u8>,
    }

    impl Two {
        fn new() -> Self {
            Self {
                sink: SinkState::default(),
                streams: [Held::new(StreamId(0)), Held::new(StreamId(1))],
                out: Vec::new(),
            }
        }

        fn add(&mut self, stream: usize, bytes: &[u8]) {
            self.streams[stream].add(bytes);
            for index in [stream, 1 - stream] {
                let out = &mut self.out;
                self.streams[index].deliver(&mut self.sink, &mut |bytes, _| out.extend(bytes));
            }
        }

        fn finish(mut self) -> (String, u64) {
            for index in [0, 1] {
                let out = &mut self.out;
                self.streams[index].finish(&mut self.sink, &mut |bytes, _| out.extend(bytes));
            }
            (String::from_utf8(self.out).unwrap(), self.sink.split_lines)
        }
    }

    #[test]
    fn lines_of_two_streams_are_never_mixed() {
        let mut two = Two::new();
        two.add(0, b"one ");
        two.add(1, b"two\nthr");
        two.add(0, b"half\n");
        two.add(1, b"ee");
        assert_eq!(two.finish(), ("two\none half\nthree\n".to_owned(), 0));
    }

    #[test]
    fn a_line_longer_than_the_hold_goes_out_in_one_piece_while_the_other_waits() {
        let long = "x".repeat(3 * HOLD + 17);
        let mut two = Two::new();
        for part in long.as_bytes().chunks(10_000) {
            two.add(0, part);
            two.add(1, b"short\n");
        }
        two.add(0, b"\n");
        let (out, split) = two.finish();
        assert_eq!(split, 0);
        assert!(out.contains(&format!("{long}\n")));
        assert_eq!(out.matches("short\n").count(), long.len().div_ceil(10_000));
    }

    #[test]
    fn a_stream_that_cannot_wait_ends_the_line_of_the_other() {
        let mut two = Two::new();
        two.add(0, &vec![b'x'; HOLD]);
        let line = [&[b'y'; 99][..], b"\n"].concat();
        for _ in 0..HOLD / 50 {
            two.add(1, &line);
        }
        assert!(two.streams[1].bytes.len() < HOLD);
        let (out, split) = two.finish();
        assert_eq!(split, 1);
        assert_eq!(out.matches("y\n").count(), HOLD / 50);
    }

    #[test]
    fn half_a_line_handed_over_is_continued_by_the_next_life() {
        let mut held = Held::new(StreamId(0));
        let mut out = Vec::<u8>::new();
        held.add(b"a\nhal");
        held.hand_over(&mut SinkState::default(), &mut |bytes, _| {
            out.extend(bytes);
        });
        let mut next = Held::new(StreamId(0));
        next.add(b"f\n");
        next.deliver(&mut SinkState::default(), &mut |bytes, _| {
            out.extend(bytes);
        });
        assert_eq!(out, b"a\nhalf\n");
    }

    proptest! {
        #[test]
        fn every_line_of_every_stream_arrives_whole_and_in_order(
            parts in proptest::collection::vec((0..2usize, "[ab\n]{0,12}"), 0..60)
        ) {
            let mut two = Two::new();
            let mut wanted = [String::new(), String::new()];
            for (stream, part) in &parts {
                // Streams write different letters, so that the sink's lines can be told apart.
                let part = if *stream == 0 { part.clone() } else { part.replace('a', "c").replace('b', "d") };
                two.add(*stream, part.as_bytes());
                wanted[*stream].push_str(&part);
            }
            let (out, split) = two.finish();
            prop_assert_eq!(split, 0);
            for (stream, letters) in [['a', 'b'], ['c', 'd']].iter().enumerate() {
                let full = |text: &str| -> Vec<String> {
                    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
                };
                let mine: Vec<_> = full(&out).into_iter().filter(|line| line.contains(*letters)).collect();
                prop_assert_eq!(mine, full(&wanted[stream]));
            }
        }
    }
}
