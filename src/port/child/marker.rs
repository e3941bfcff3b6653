//! Looks for texts in what a child writes.
//!
//! Promises: whole lines are looked at, however the bytes come; a line that is longer than [`LINE`] is looked at in
//! pieces that overlap; ends with the first hit.
//! Must never: change or hold back what goes to the log.

use tokio::sync::oneshot;

/// Bytes of a line that are looked at in one piece.
const LINE: usize = 16 * 1024;
/// Bytes of a piece that the next one begins with, so that a text on the border is found.
const OVERLAP: usize = 512;
/// Characters of a line that are told.
const TOLD: usize = 300;

/// What a hit says: that the child has reloaded, or the line that says it has not.
pub(super) type Said = Result<(), String>;

/// What is looked for, and who waits for it.
#[derive(Debug)]
pub(super) struct Marker {
    reloaded: Vec<String>,
    failed: Vec<String>,
    answer: Option<oneshot::Sender<Said>>,
    /// The beginnings of unfinished lines, one per stream.
    partial: [Vec<u8>; 2],
}

impl Marker {
    /// Begins now: what was written before is not looked at.
    pub(super) fn new(
        reloaded: Vec<String>,
        failed: Vec<String>,
        answer: oneshot::Sender<Said>,
    ) -> Self {
        Self {
            reloaded,
            failed,
            answer: Some(answer),
            partial: [Vec::new(), Vec::new()],
        }
    }

    /// Takes what one stream brought; true when there is nothing more to look for.
    pub(super) fn add(&mut self, stream: usize, bytes: &[u8]) -> bool {
        let Some(partial) = self.partial.get_mut(stream) else {
            return false;
        };
        let mut line = std::mem::take(partial);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend(piece);
            let ended = piece.ends_with(b"\n");
            if !ended && line.len() < LINE {
                break;
            }
            if let Some(said) = self.judge(&line) {
                if let Some(answer) = self.answer.take() {
                    // Nobody waits any longer: then nobody wants it.
                    drop(answer.send(said));
                }
                return true;
            }
            let keep = if ended { 0 } else { OVERLAP.min(line.len()) };
            line.drain(..line.len() - keep);
        }
        if let Some(partial) = self.partial.get_mut(stream) {
            *partial = line;
        }
        false
    }

    fn judge(&self, line: &[u8]) -> Option<Said> {
        let line = String::from_utf8_lossy(line);
        let holds = |texts: &[String]| texts.iter().any(|text| line.contains(text.as_str()));
        if holds(&self.failed) {
            let told = line.trim().chars().filter(|c| !c.is_control());
            Some(Err(told.take(TOLD).collect()))
        } else if holds(&self.reloaded) {
            Some(Ok(()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pieces: &[(usize, &str)]) -> Option<Said> {
        let (answer, mut heard) = oneshot::channel();
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let mut marker = Marker::new(texts(&["has reloaded"]), texts(&["not successful"]), answer);
        for (stream, piece) in pieces {
            if marker.add(*stream, piece.as_bytes()) {
                break;
            }
        }
        heard.try_recv().ok()
    }

    #[test]
    fn the_first_line_with_a_text_decides() {
        let long = "x".repeat(40_000);
        let border = format!("{}has reloaded", "x".repeat(LINE - 4));
        let (left, right) = border.split_at(LINE);
        let refused = || Some(Err("Reload was not successful: sink x".to_owned()));
        let cases = [
            (vec![(0, "it has reloaded.\n")], Some(Ok(()))),
            (vec![(1, "it has re"), (1, "loaded.\n")], Some(Ok(()))),
            (vec![(0, "it has re"), (1, "loaded.\n")], None),
            (vec![(0, "it has reloaded")], None),
            (
                vec![(
                    0,
                    "a\nb\nReload was not successful: sink x\nit has reloaded\n",
                )],
                refused(),
            ),
            (vec![(0, "has reloaded\nnot successful\n")], Some(Ok(()))),
            (
                vec![(0, long.as_str()), (0, "has reloaded\n")],
                Some(Ok(())),
            ),
            (vec![(0, left), (0, right), (0, "\n")], Some(Ok(()))),
            (vec![(0, "nothing\n"), (1, "to see\n")], None),
        ];
        for (pieces, wanted) in cases {
            let shown: Vec<_> = pieces.iter().map(|(_, text)| text.len()).collect();
            assert_eq!(said(&pieces), wanted, "{shown:?}");
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let (answer, _heard) = oneshot::channel();
        let mut marker = Marker::new(vec!["x".to_owned()], Vec::new(), answer);
        for _ in 0..1000 {
            assert!(!marker.add(0, &[b'a'; 4096]));
            assert!(
                marker.partial[0].len() < LINE,
                "{}",
                marker.partial[0].len()
            );
        }
    }
}
