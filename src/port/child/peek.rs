//! Looks at what is in a pipe without taking it out.
//!
//! Promises: what was looked at stays in the pipe until it is taken, so that whatever was not written yet when we are
//! killed is read by our next life; one that was killed between writing and taking makes its last lines come twice,
//! never not at all.
//! Must never: block, or leave bytes of one pipe in the way of another.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee};

/// What the pipe in between can hold: more than is looked at in one go, however small the pieces are that it came in.
const ROOM: usize = 256 * 1024;

/// A pipe of our own, which is empty between two calls.
#[derive(Debug, Default)]
pub(super) struct Peek {
    between: Option<(File, OwnedFd)>,
}

impl Peek {
    /// Copies what is at the front of `pipe` into `buffer`; the number of bytes, zero when there is nothing now.
    ///
    /// # Errors
    /// When it cannot be looked at. Reading it is all that is left then.
    pub(super) fn look(&mut self, pipe: &File, buffer: &mut [u8]) -> io::Result<usize> {
        if self.between.is_none() {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // Less room only means that less is looked at.
            fcntl_setpipe_size(&writer, ROOM).ok();
            self.between = Some((File::from(reader), writer));
        }
        let Some((reader, writer)) = &mut self.between else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let there = match tee(pipe, &*writer, buffer.len(), SpliceFlags::NONBLOCK) {
            Ok(there) => there,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        };
        let seen = buffer.get_mut(..there).unwrap_or_default();
        if let Err(error) = reader.read_exact(seen) {
            // What it still holds must not be taken for another pipe's.
            self.between = None;
            return Err(error);
        }
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_looked_at_is_still_there() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        let mut peek = Peek::default();
        let mut buffer = vec![0; 32 * 1024];
        assert_eq!(peek.look(&reader, &mut buffer).unwrap(), 0);
        // Pieces that do not share a page, more of them than a pipe has by default.
        let piece = [b'x'; 2049];
        for _ in 0..16 {
            writer.write_all(&piece).unwrap();
        }
        for _ in 0..2 {
            let seen = peek.look(&reader, &mut buffer).unwrap();
            assert_eq!(seen, 32 * 1024);
            assert!(buffer.iter().all(|byte| *byte == b'x'));
        }
        let mut taken = Vec::new();
        let end = reader.read_to_end(&mut taken).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(taken.len(), 16 * 2049);
    }
}
