//! Reads members that are not regular files. The bytes after the header show whether such a member
//! has a body.

use std::io::{self, Read};

use tar::Header;

use super::Tarball;
use super::blocks::{BLOCK, unreadable};
use crate::error::Result;
use crate::layer::tar::header::{Flag, check_sum};

impl<R: Read> Tarball<R> {
    /// The length of the body of a member that is not a regular file but has a `size` in its
    /// header. According to POSIX, such a member has no body, regardless of the header. GNU tar and
    /// bsdtar follow POSIX. But a hardlink with a PAX header may have a body that repeats the
    /// contents of its file (pax, `linkdata`). An ambiguous member is refused.
    pub(super) fn body_of_other(
        &mut self,
        flag: Flag,
        size: u64,
        is_pax: bool,
    ) -> Result<Result<u64, String>> {
        if size == 0 {
            return Ok(Ok(0));
        }
        let may_have_one = is_pax && flag == Flag::Hardlink;
        Ok(match (self.goes_on()?, may_have_one) {
            (true, false) => Ok(0),
            (false, true) => Ok(size),
            (true, true) => {
                Err("has a size, but the bytes after its header may be its body or the next entry"
                    .to_owned())
            }
            (false, false) => Err("has a body, which only a file may have".to_owned()),
        })
    }

    /// Whether a header or the end of the archive comes next.
    fn goes_on(&mut self) -> Result<bool> {
        let mut block = [0; BLOCK];
        let mut filled = self.ahead.len();
        block[..filled].copy_from_slice(&self.ahead);
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(unreadable(&err)),
            }
        }
        self.ahead = block[..filled].to_vec();
        if block[..filled].iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
        let mut header = Header::new_old();
        *header.as_mut_bytes() = block;
        Ok(filled == BLOCK && check_sum(&header).is_ok())
    }
}
