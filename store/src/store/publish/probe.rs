//! Finds out how files can be placed in the store's directory.

use std::sync::Arc;

use crate::disk::{self, Cloned, Dir, Fresh, temp_name};
use crate::error::{Error, Result};
use crate::layer::objects::object_name::ObjectName;
use crate::learned::Learned;
use crate::owners::Owners;
use crate::root::placing::{LinkMode, Placement};
use crate::store::names::PROBE;
use crate::writable::Writable;

/// The length of an object's name that states only the contents, not the metadata.
const CONTENTS_NAME: usize = 64;

/// Determines how files are placed. If `link` is `Auto`, the result is the best way that works in
/// these directories; otherwise the way that `link` requires.
pub(in crate::store) fn placement(top: &Dir, unpacked: &Dir, link: LinkMode) -> Result<Placement> {
    let owner = rustix::process::geteuid().is_root();
    let strict = link != LinkMode::Auto;
    let mode = if strict { link } else { probe(top, unpacked)? };
    let fresh = Fresh::probe(unpacked)?;
    let (writable, learned) = (Writable::read(top)?, Arc::new(Learned::read(top)?));
    let owners = if owner { Owners::read(top)? } else { Owners::default() };
    Ok(Placement { mode, strict, owner, fresh, writable, learned, owners, meter: Arc::default() })
}

fn probe(top: &Dir, unpacked: &Dir) -> Result<LinkMode> {
    let objects = top.child_or_create(c"objects", 0o700)?;
    // If the program dies here, the next cleanup of the objects removes the file by its prefix.
    let (from, to) = (temp_name(".new-probe"), temp_name(PROBE));
    let source = objects.create_file(&from, 0o600)?;
    let mode: Result<LinkMode> = (|| {
        disk::fault::write_all(&source, &[1; 4096])
            .map_err(|err| Error::io("write", objects.path_of(&from), err))?;
        let target = unpacked.create_file(&to, 0o600)?;
        let cloned = disk::clone_contents(&source, &target, 4096)
            .map_err(|err| Error::io("clone to", unpacked.path_of(&to), err))?;
        unpacked.remove_file(&to)?;
        Ok(match cloned {
            Cloned::Whole => LinkMode::Reflink,
            _ if objects.link(&from, unpacked, &to).is_ok() => LinkMode::Hardlink,
            _ => LinkMode::Copy,
        })
    })();
    unpacked.remove_file(&to)?;
    objects.remove_file(&from)?;
    match mode {
        // A full disk must not prevent the start, because a running agent can free space.
        Err(err) if err.is_no_space() => mode_of(&objects)?.ok_or(err),
        other => other,
    }
}

/// Infers from the names of the objects how the files of a store were placed so far.
fn mode_of(objects: &Dir) -> Result<Option<LinkMode>> {
    for item in objects.list()?.iter().filter(|item| item.name.count_bytes() == 2) {
        for object in objects.child(&item.name)?.list()? {
            if ObjectName::from_file_name(&object.name).is_some() {
                // The mode `Reflink` copies the files that cannot be cloned. So `Reflink` also fits
                // a store whose files were copied.
                let contents = object.name.count_bytes() == CONTENTS_NAME;
                return Ok(Some(if contents { LinkMode::Reflink } else { LinkMode::Hardlink }));
            }
        }
    }
    Ok(None)
}
