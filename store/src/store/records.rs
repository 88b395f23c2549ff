//! Writes the records for the next run of the agent, which are seals and private paths, and reads
//! the seals.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use super::Store;
use crate::disk::{Dir, TempFile};
use crate::error::{Error, Result};
use crate::layer::objects::object_name::Naming;

/// The name of the file in the agent's directory that holds the seals of the objects.
const SEALS: &CStr = c"seals";
/// The maximum number of bytes that are read from the file of seals. This size is enough for 16
/// million objects.
const MOST: u64 = 256 << 20;
/// The file that holds the id of the current boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

impl Store {
    /// Reads the seals from the previous run of the agent. Without these seals, the agent must read
    /// the contents of an object to check the object.
    pub(super) fn read_seals(&self) -> Result<()> {
        if self.objects.naming() == Naming::Contents {
            return Ok(());
        }
        let top = Dir::open(&self.path)?;
        // The file is written without a sync, so its contents may be invalid after a power cut.
        let mut bytes = Vec::new();
        let read = top.open_file_and_stat(SEALS).is_ok_and(|(file, stat)| {
            // If the file belongs to another user, its seals could claim that a changed object is
            // unchanged.
            stat.st_uid == rustix::process::geteuid().as_raw()
                && file.take(MOST).read_to_end(&mut bytes).is_ok()
        });
        if read {
            self.objects.seals().read(&bytes, &boot());
        }
        // The file is removed now, because the next change of an object would make the file
        // outdated.
        top.remove_file(SEALS)
    }

    /// Writes the private paths and the seals.
    pub(super) fn write_records(&self) -> Result<()> {
        self.placement.learned.write(&self.path)?;
        if self.objects.naming() == Naming::Contents {
            return Ok(());
        }
        let top = Arc::new(Dir::open(&self.path)?);
        let temp = TempFile::create(&top, "temp-seals")?;
        temp.file()
            .write_all(&self.objects.seals().to_bytes(&boot()))
            .map_err(|err| Error::io("write", top.path_of(temp.name()), err))?;
        temp.publish(&top, SEALS)
    }
}

fn boot() -> String {
    std::fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned()
}
