//! Makes mounts, flags and symlinks as services and scripts may make them. Most of the mounts, and
//! the symlinks, lead out of a root. The mounts and flags prevent the removal of a root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::dice::Dice;
use crate::hostile::{nothing, remove_all, told};
use crate::tree::Kind;
use crate::world::{World, unflag, unmount};

fn mount(arguments: &[&str], from: &Path, to: &Path) -> io::Result<()> {
    let mut mount = std::process::Command::new("mount");
    let output = mount.args(arguments).arg(from).arg(to).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

pub fn bind(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?;
    if dice.percent(25) {
        mount(&["--bind"], &path, &path)?;
        return Ok(format!("{} at itself", told(&path)));
    }
    mount(&["--bind"], &world.canaries.data(), &path)?;
    Ok(format!("data outside at {}", told(&path)))
}

pub fn bind_file(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    mount(&["--bind"], &world.canaries.file(), &path)?;
    Ok(format!("a file outside at {}", told(&path)))
}

pub fn tmpfs(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?;
    mount(&["-t", "tmpfs", "-o", "size=64k"], Path::new("none"), &path)?;
    world.canaries.hold(&path)?;
    Ok(format!("memory at {}", told(&path)))
}

pub fn unmount_one(world: &mut World, dice: &mut Dice, _: &Path) -> io::Result<String> {
    let mounts: Vec<PathBuf> = world.mounts().into_iter().collect();
    let path = dice.pick(&mounts).cloned().ok_or_else(nothing)?;
    world.canaries.let_go(&path);
    unmount(&path);
    Ok(format!("unmounted {}", told(&path)))
}

pub fn flag(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    if world.flagged.len() > 3 {
        return unflag_one(world, dice, root);
    }
    let path =
        if dice.percent(75) { world.file(dice, root)? } else { world.directory(dice, root)? };
    let file = File::open(&path)?;
    let wanted = if dice.percent(70) { IFlags::IMMUTABLE } else { IFlags::APPEND };
    ioctl_setflags(&file, ioctl_getflags(&file)? | wanted)?;
    world.flagged.push((file, path.clone()));
    Ok(format!("{} {wanted:?}", told(&path)))
}

pub fn unflag_one(world: &mut World, dice: &mut Dice, _: &Path) -> io::Result<String> {
    if world.flagged.is_empty() {
        return Err(nothing());
    }
    let at = dice.below(world.flagged.len());
    let (file, path) = world.flagged.remove(at);
    unflag(&file);
    Ok(format!("{} has no flag any more", told(&path)))
}

pub fn directory_to_symlink(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?;
    let is_kept = dice.percent(50);
    if is_kept {
        fs::rename(&path, path.with_extension("old"))?;
    } else {
        remove_all(world, &path)?;
    }
    symlink(world.canaries.linked(), &path)?;
    Ok(format!("{} leads outside, the directory is kept: {is_kept}", told(&path)))
}

pub fn file_to_symlink(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    fs::remove_file(&path)?;
    symlink(world.canaries.file(), &path)?;
    Ok(format!("{} leads outside", told(&path)))
}

pub fn repoint(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let links = world.there(root, Kind::Symlink);
    let path = dice.pick(&links).cloned().ok_or_else(nothing)?;
    fs::remove_file(&path)?;
    symlink(world.canaries.linked(), &path)?;
    Ok(told(&path))
}
