//! Writes to open files. A service may write at any time to files that it has open, even if its
//! root was replaced or removed.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Timespec, Timestamps};

use crate::dice::Dice;
use crate::hostile::{nothing, other_bytes, told};
use crate::world::{Open, World};

pub fn open_file(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    if world.open.len() > 7 {
        world.open.remove(0);
    }
    let file = File::options().read(true).write(true).open(&path)?;
    world.open.push((Open::File(file), path.clone()));
    Ok(told(&path))
}

pub fn map_file(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    if world.open.len() > 7 {
        world.open.remove(0);
    }
    let mapper = world.mapper.as_mut().ok_or_else(nothing)?;
    let number = mapper.map(&path)?;
    if dice.percent(50) {
        mapper.write(number)?;
    }
    world.open.push((Open::Mapping(number), path.clone()));
    Ok(told(&path))
}

/// Writes to a file that a service has open, and closes the file in some cases.
pub fn write_to_open(world: &mut World, dice: &mut Dice, _: &Path) -> io::Result<String> {
    if world.open.is_empty() {
        return Err(nothing());
    }
    let at = dice.below(world.open.len());
    let (open, path) = &world.open[at];
    let mut text = told(path);
    match open {
        Open::File(file) => {
            let before = file.metadata()?;
            other_bytes(file, dice)?;
            if dice.percent(40) {
                let time = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::futimens(file, &times)?;
                text += ", its time restored";
            }
        }
        Open::Mapping(number) => world.mapper.as_mut().unwrap().write(*number)?,
    }
    if dice.percent(40) {
        if let (Open::Mapping(number), _) = world.open.remove(at) {
            world.mapper.as_mut().unwrap().unmap(number)?;
        }
        text += ", and closed";
    }
    Ok(format!("written through a file that was opened as {text}"))
}
