//! Changes roots as services and scripts may change them. The agent must handle all these changes,
//! although some of them damage files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::dice::Dice;
use crate::layers::CAPABILITY;
use crate::tree::{Kind, Who};
use crate::world::World;
use crate::{open, outside};

/// Changes a root, and describes the change.
type Act = fn(&mut World, &mut Dice, &Path) -> io::Result<String>;

/// A kind of change: its name for `DEPLOY_TEST_WITHOUT`, its weight, whether it needs the user
/// `root`, and the function that makes the change.
struct Acting(&'static str, usize, bool, Act);

/// All kinds of changes. Several kinds may have the same name.
const ACTS: [Acting; 32] = [
    Acting("write", 6, false, write),
    Acting("restored", 8, false, write_restored),
    Acting("append", 4, false, append),
    Acting("truncate", 3, false, truncate),
    Acting("replace", 2, false, replace),
    Acting("rename", 4, false, rename),
    Acting("swap", 2, false, swap),
    Acting("link", 4, false, link),
    Acting("carry", 4, false, carry),
    Acting("chown", 3, true, chown),
    Acting("chown", 1, true, chown_all),
    Acting("chmod", 3, false, chmod),
    Acting("chmod", 1, false, chmod_directory),
    Acting("xattr", 3, false, set_attribute),
    Acting("setcap", 3, true, set_capability),
    Acting("mounts", 3, true, outside::bind),
    Acting("mounts", 1, true, outside::bind_file),
    Acting("mounts", 2, true, outside::tmpfs),
    Acting("mounts", 2, true, outside::unmount_one),
    Acting("chattr", 3, true, outside::flag),
    Acting("chattr", 3, true, outside::unflag_one),
    Acting("symlinks", 2, false, outside::directory_to_symlink),
    Acting("symlinks", 1, false, outside::file_to_symlink),
    Acting("symlinks", 2, false, outside::repoint),
    Acting("remove", 3, false, remove_file),
    Acting("remove", 2, false, remove_directory),
    Acting("own", 4, false, make_file),
    Acting("own", 2, false, make_directory),
    Acting("open", 5, false, open::open_file),
    Acting("mmap", 4, false, open::map_file),
    Acting("open", 8, false, open::write_to_open),
    Acting("touch", 1, false, touch),
];

/// Files that the dice choose often, so that several changes affect the same file.
const HOT: [&str; 6] =
    ["bin/server", "etc/app.conf", "shared/s0", "var/db", "lib/a/f0", "lib/a/f1"];

impl World {
    /// Makes one random change in `root`. If `root` is `None`, changes the deployed root or another
    /// existing root.
    pub fn hostile(&mut self, dice: &mut Dice, root: Option<&Path>) {
        let is_root = self.who == Who::Root;
        let may = |act: &&Acting| !crate::is_without(act.0) && (is_root || !act.2);
        let acts: Vec<&Acting> = ACTS.iter().filter(may).collect();
        let weight = |act: &Acting| crate::weight(act.0, act.1);
        let mut at = dice.below(acts.iter().map(|act| weight(act)).sum());
        let act = acts.into_iter().find(|act| {
            let found = at < weight(act);
            at = at.saturating_sub(weight(act));
            found
        });
        let Some(Acting(name, _, _, act)) = act else { return };
        let Some(root) = root.map(Path::to_owned).or_else(|| self.any_root(dice)) else { return };
        let done = act(self, dice, &root).unwrap_or_else(|err| format!("nothing: {err}"));
        self.say(format!("  {name}: {done}"));
    }

    /// The deployed root, or another existing root.
    fn any_root(&self, dice: &mut Dice) -> Option<PathBuf> {
        let live = self.deployed.as_deref().map(|id| self.root(id));
        if dice.percent(60) {
            return live;
        }
        let there: Vec<PathBuf> =
            self.roots.keys().map(|id| self.root(id)).filter(|root| root.is_dir()).collect();
        dice.pick(&there).cloned()
    }

    /// The paths of this kind that exist both in a root and in the root's layers. Paths that lead
    /// through a mount or a symlink do not count.
    pub fn there(&mut self, root: &Path, kind: Kind) -> Vec<PathBuf> {
        let id = root.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(versions) = self.roots.get(&id).map(|known| known.versions.clone()) else {
            return Vec::new();
        };
        let (tree, mounts) = (self.tree(&versions), self.mounts());
        let is_plain = |path: &&String| {
            let mut at = root.to_owned();
            let parts: Vec<&str> = path.split('/').collect();
            for (n, part) in parts.iter().enumerate() {
                at.push(part);
                let Ok(stat) = fs::symlink_metadata(&at) else { return false };
                let is_right = match kind {
                    _ if n + 1 < parts.len() => stat.is_dir(),
                    Kind::File => stat.is_file(),
                    Kind::Directory => stat.is_dir(),
                    _ => stat.is_symlink(),
                };
                if !is_right || mounts.contains(&at) {
                    return false;
                }
            }
            true
        };
        tree.keys().filter(is_plain).map(|path| root.join(path)).collect()
    }

    pub fn file(&mut self, dice: &mut Dice, root: &Path) -> io::Result<PathBuf> {
        let files = self.there(root, Kind::File);
        let hot: Vec<&PathBuf> =
            files.iter().filter(|path| HOT.iter().any(|hot| path.ends_with(hot))).collect();
        let picked = if dice.percent(60) { dice.pick(&hot).copied() } else { None };
        picked.or_else(|| dice.pick(&files)).cloned().ok_or_else(nothing)
    }

    pub fn directory(&mut self, dice: &mut Dice, root: &Path) -> io::Result<PathBuf> {
        let directories = self.there(root, Kind::Directory);
        dice.pick(&directories).cloned().ok_or_else(nothing)
    }
}

pub fn nothing() -> io::Error {
    io::Error::other("there is nothing to change")
}

/// The root and the path in a short form, for the list of steps.
pub fn told(path: &Path) -> String {
    let text = path.display().to_string();
    let text = text.split_once("/unpacked/").map_or(&*text, |(_, rest)| rest).to_owned();
    let (id, rest) = text.split_once('/').unwrap_or((&text, ""));
    format!("{}:{rest}", &id[..id.len().min(8)])
}

pub fn other_bytes(file: &File, dice: &mut Dice) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap().min(16);
    file.write_all_at(&dice.bytes(length.max(1)), 0)
}

fn write(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    other_bytes(&File::options().write(true).open(&path)?, dice)?;
    Ok(told(&path))
}

fn set_time(path: &Path, time: (i64, i64)) -> io::Result<()> {
    let time = Timespec { tv_sec: time.0, tv_nsec: time.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Writes to a file and restores its time, as `cp -p` and `rsync --inplace --times` do.
fn write_restored(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let before = fs::metadata(&path)?;
    other_bytes(&File::options().write(true).open(&path)?, dice)?;
    set_time(&path, (before.mtime(), before.mtime_nsec()))?;
    Ok(told(&path))
}

fn append(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    File::options().append(true).open(&path)?.write_all(&dice.bytes(5))?;
    Ok(told(&path))
}

fn truncate(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let file = File::options().write(true).open(&path)?;
    file.set_len(if dice.percent(50) { 0 } else { file.metadata()?.len() / 2 })?;
    Ok(told(&path))
}

fn replace(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let new = path.with_extension("new");
    fs::write(&new, dice.bytes(20))?;
    fs::rename(new, &path)?;
    Ok(told(&path))
}

/// Renames a file as log rotation does. In some cases, also writes to the renamed file, as a
/// process that has the file open does.
fn rename(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let other = path.with_extension("1");
    fs::rename(&path, &other)?;
    let is_written = dice.percent(60);
    if is_written {
        other_bytes(&File::options().write(true).open(&other)?, dice)?;
    }
    Ok(format!("{} to .1, written to: {is_written}", told(&path)))
}

fn swap(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let (from, to) = (world.file(dice, root)?, world.file(dice, root)?);
    fs::rename(&from, &to)?;
    Ok(format!("{} over {}", told(&from), told(&to)))
}

fn link(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let other = path.with_extension("bak");
    fs::hard_link(&path, &other)?;
    let how = dice.below(4);
    match how {
        0 => {}
        1 => other_bytes(&File::options().write(true).open(&other)?, dice)?,
        2 => {
            fs::remove_file(&path)?;
            other_bytes(&File::options().write(true).open(&other)?, dice)?;
        }
        _ => fs::set_permissions(&other, fs::Permissions::from_mode(0o640))?,
    }
    Ok(format!(
        "{} as .bak, {}",
        told(&path),
        ["no more", "written to", "alone and written to", "chmod"][how]
    ))
}

/// Moves or hardlinks a file from one root into another.
fn carry(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let others: Vec<PathBuf> = world
        .roots
        .keys()
        .map(|id| world.root(id))
        .filter(|other| other.is_dir() && other != root)
        .collect();
    let from_root = dice.pick(&others).cloned().ok_or_else(nothing)?;
    let (from, to) = (world.file(dice, &from_root)?, world.file(dice, root)?);
    let is_moved = dice.percent(50);
    if is_moved {
        fs::rename(&from, &to)?;
    } else {
        fs::remove_file(&to)?;
        fs::hard_link(&from, &to)?;
    }
    let how = if is_moved { "moved" } else { "linked" };
    Ok(format!("{} {how} over {}", told(&from), told(&to)))
}

fn chown(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    std::os::unix::fs::lchown(&path, Some(65), Some(66))?;
    Ok(told(&path))
}

/// Changes owners as `chown -R` does.
fn chown_all(world: &mut World, _: &mut Dice, root: &Path) -> io::Result<String> {
    let mut count = 0;
    for kind in [Kind::Directory, Kind::File, Kind::Symlink] {
        for path in world.there(root, kind) {
            // Immutable files keep their owners.
            count += usize::from(std::os::unix::fs::lchown(&path, Some(33), Some(33)).is_ok());
        }
    }
    if count == 0 {
        return Err(nothing());
    }
    Ok(format!("{} and all below it, {count}", told(root)))
}

fn chmod(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let mode = [0o600, 0o777, 0o444, 0o4711][dice.below(4)];
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(format!("{} {mode:o}", told(&path)))
}

fn chmod_directory(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?;
    let mode = [0o700, 0o777, 0o1777, 0o555][dice.below(4)];
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(format!("{} {mode:o}", told(&path)))
}

fn set_attribute(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path =
        if dice.percent(70) { world.file(dice, root)? } else { world.directory(dice, root)? };
    let name = ["user.seen", "user.origin"][dice.below(2)];
    rustix::fs::lsetxattr(&path, name, b"by a service", XattrFlags::empty())?;
    Ok(format!("{} {name}", told(&path)))
}

fn set_capability(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    let mut value = CAPABILITY;
    value[5] = 0x20;
    rustix::fs::lsetxattr(&path, "security.capability", &value, XattrFlags::empty())?;
    Ok(told(&path))
}

fn remove_file(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    fs::remove_file(&path)?;
    Ok(told(&path))
}

/// Removes a directory with all its contents. Fails if anything is mounted on or below it.
pub fn remove_all(world: &World, path: &Path) -> io::Result<()> {
    if world.mounts().iter().any(|mount| mount.starts_with(path)) {
        return Err(io::Error::other("something is mounted there"));
    }
    fs::remove_dir_all(path)
}

fn remove_directory(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?;
    remove_all(world, &path)?;
    Ok(told(&path))
}

fn make_file(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?.join(format!("own{}", dice.below(3)));
    fs::write(&path, dice.bytes(10))?;
    Ok(told(&path))
}

fn make_directory(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.directory(dice, root)?.join(format!("dir{}", dice.below(3)));
    fs::create_dir(&path)?;
    fs::write(path.join("inner"), dice.bytes(10))?;
    fs::set_permissions(&path, fs::Permissions::from_mode([0o755, 0o000][dice.below(2)]))?;
    Ok(told(&path))
}

fn touch(world: &mut World, dice: &mut Dice, root: &Path) -> io::Result<String> {
    let path = world.file(dice, root)?;
    set_time(&path, (1_600_000_000, 0))?;
    Ok(told(&path))
}
