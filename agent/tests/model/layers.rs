//! Generates layers: small trees, and versions of these trees with small differences.

use std::collections::BTreeMap;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::dice::Dice;

/// The metadata of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A regular file, which may have several names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub body: Vec<u8>,
    pub meta: Meta,
}

/// The node that a name in a layer stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory(Meta),
    Symlink(String, Meta),
    /// A name of the regular file with this number.
    File(usize),
}

/// One version of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    pub names: BTreeMap<String, Node>,
    pub inodes: BTreeMap<usize, File>,
}

/// The components, in the order of their layers. The lowest layer is first.
pub const COMPONENTS: [&str; 3] = ["code", "conf", "data"];

/// File capabilities in the kernel's form: version 2, effective, `cap_net_bind_service`.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The earliest modification time of all files, in seconds since 1970.
const EPOCH: i64 = 1_700_000_000;

impl Layer {
    /// The first version of component number `n`.
    pub fn first(n: usize, dice: &mut Dice) -> Self {
        let mut layer = Self::default();
        for dir in ["shared", "lib"] {
            layer.directory(dir, dice);
        }
        for file in (0..6).filter(|file| n == 0 || (file + n).is_multiple_of(3)) {
            layer.file(&format!("shared/s{file}"), 40, dice);
        }
        match n {
            0 => layer.code(dice),
            1 => layer.conf(dice),
            _ => layer.data(dice),
        }
        layer
    }

    fn code(&mut self, dice: &mut Dice) {
        for dir in ["bin", "lib/a", "lib/b", "lib/b/deep"] {
            self.directory(dir, dice);
        }
        let server = self.file("bin/server", 300, dice);
        self.inodes.get_mut(&server).unwrap().meta.mode = 0o755;
        self.names.insert("bin/server-link".to_owned(), Node::File(server));
        let tool = self.file("bin/tool", 100, dice);
        self.inodes.get_mut(&tool).unwrap().meta.mode = 0o4755;
        let bound = self.file("bin/bound", 100, dice);
        let meta = &mut self.inodes.get_mut(&bound).unwrap().meta;
        meta.xattrs.insert("security.capability".to_owned(), CAPABILITY.into());
        for file in ["lib/a/f0", "lib/a/f1", "lib/b/f2", "lib/b/deep/f3"] {
            self.file(file, 60, dice);
        }
        self.file("lib/a/empty", 0, dice);
        let twin = self.file("lib/a/twin1", 50, dice);
        let twin = self.inodes[&twin].clone();
        let other = self.inodes.len();
        self.inodes.insert(other, twin);
        self.names.insert("lib/b/twin2".to_owned(), Node::File(other));
        let meta = Meta { mtime: (EPOCH, 0), ..Meta::default() };
        self.names.insert("lib/current".to_owned(), Node::Symlink("a".to_owned(), meta));
    }

    fn conf(&mut self, dice: &mut Dice) {
        for dir in ["etc", "var", "var/lib"] {
            self.directory(dir, dice);
        }
        self.file("etc/app.conf", 80, dice);
        self.file("etc/env", 20, dice);
        // Changes often write to the file through the second name.
        let db = self.file("etc/db", 120, dice);
        self.names.insert("var/db".to_owned(), Node::File(db));
        self.file("var/log", 30, dice);
        self.file("var/lib/seed", 30, dice);
        let meta = &mut self.inodes.get_mut(&db).unwrap().meta;
        meta.xattrs.insert("user.origin".to_owned(), b"archive".into());
    }

    fn data(&mut self, dice: &mut Dice) {
        for dir in ["www", "www/img"] {
            self.directory(dir, dice);
        }
        self.file("www/index", 200, dice);
        self.file("www/img/a", 9000, dice);
        self.file("www/img/b", 70_000, dice);
        // The code layer has this directory, too. The file replaces a file of the code layer.
        self.directory("lib/a", dice);
        self.file("lib/a/f1", 60, dice);
        let meta = Meta { mtime: (EPOCH, 0), ..Meta::default() };
        self.names.insert("www/logo".to_owned(), Node::Symlink("img/a".to_owned(), meta));
    }

    fn directory(&mut self, path: &str, dice: &mut Dice) {
        let mode = if dice.percent(80) { 0o755 } else { 0o750 };
        self.names.insert(path.to_owned(), Node::Directory(meta(mode, dice)));
    }

    fn file(&mut self, path: &str, length: usize, dice: &mut Dice) -> usize {
        let number = self.inodes.keys().max().map_or(0, |max| max + 1);
        let file = File { body: dice.bytes(length), meta: meta(0o644, dice) };
        self.inodes.insert(number, file);
        self.names.insert(path.to_owned(), Node::File(number));
        number
    }

    /// The next version: this version with one to four changes.
    pub fn next(&self, dice: &mut Dice) -> Self {
        let mut layer = self.clone();
        while layer == *self {
            for _ in 0..=dice.below(4) {
                layer.change(dice);
            }
            let named: Vec<usize> = layer.files().map(|(_, inode)| inode).collect();
            layer.inodes.retain(|inode, _| named.contains(inode));
        }
        layer
    }

    fn files(&self) -> impl Iterator<Item = (&str, usize)> {
        self.names.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path.as_str(), *inode)),
            _ => None,
        })
    }

    fn change(&mut self, dice: &mut Dice) {
        let files: Vec<(String, usize)> =
            self.files().map(|(path, inode)| (path.to_owned(), inode)).collect();
        let Some((path, inode)) = dice.pick(&files).cloned() else { return };
        let fresh = format!("{}-{}", path, dice.below(4));
        let file = self.inodes.get_mut(&inode).unwrap();
        match dice.below(14) {
            0..=2 => file.body = dice.bytes(file.body.len()),
            3 => {
                // Two such changes in a row make versions of the file with the same length and
                // time.
                file.body = dice.bytes(file.body.len());
                file.meta.mtime = (EPOCH, 0);
            }
            4 => file.body.extend(dice.bytes(7)),
            5 => file.meta.mtime = time(dice),
            6 => file.meta.mode = [0o600, 0o644, 0o755, 0o2755][dice.below(4)],
            7 => (file.meta.uid, file.meta.gid) = owner(dice),
            8 => {
                if file.meta.xattrs.remove("user.origin").is_none() {
                    file.meta.xattrs.insert("user.origin".to_owned(), dice.bytes(5));
                }
            }
            9 => {
                self.names.remove(&path);
            }
            10 => {
                self.file(&fresh, 33, dice);
            }
            11 => {
                self.names.insert(fresh, Node::File(inode));
            }
            12 => self.change_kind(&path, dice),
            _ => self.change_directory(dice),
        }
    }

    fn change_kind(&mut self, path: &str, dice: &mut Dice) {
        if dice.percent(50) {
            let target = format!("nowhere/{}", dice.below(3));
            let meta = Meta { mtime: time(dice), ..Meta::default() };
            self.names.insert(path.to_owned(), Node::Symlink(target, meta));
        } else {
            self.directory(path, dice);
            self.file(&format!("{path}/inner"), 12, dice);
        }
    }

    /// Changes the metadata of a directory that no other component uses, removes such a directory,
    /// or replaces it with a symlink.
    fn change_directory(&mut self, dice: &mut Dice) {
        let own = ["bin", "lib/b", "lib/b/deep", "var", "var/lib", "www/img"];
        let there: Vec<&str> =
            own.into_iter().filter(|dir| self.names.contains_key(*dir)).collect();
        let Some(&dir) = dice.pick(&there) else { return };
        if dice.percent(60) {
            let mode = [0o700, 0o755, 0o775][dice.below(3)];
            let meta = meta(mode, dice);
            self.names.insert(dir.to_owned(), Node::Directory(meta));
            return;
        }
        let below = format!("{dir}/");
        self.names.retain(|path, _| path != dir && !path.starts_with(&below));
        if dice.percent(30) {
            let meta = Meta { mtime: time(dice), ..Meta::default() };
            self.names.insert(dir.to_owned(), Node::Symlink("shared".to_owned(), meta));
        }
    }

    /// Returns the layer as a tar.gz.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut first: BTreeMap<usize, &str> = BTreeMap::new();
        for (path, node) in &self.names {
            let mut header = Header::new_ustar();
            let mut body: &[u8] = &[];
            let meta = match node {
                Node::Directory(meta) => {
                    header.set_entry_type(EntryType::Directory);
                    meta
                }
                Node::Symlink(target, meta) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_link_name(target).unwrap();
                    meta
                }
                Node::File(inode) => {
                    let file = &self.inodes[inode];
                    if let Some(first) = first.get(inode) {
                        header.set_entry_type(EntryType::Link);
                        header.set_link_name(first).unwrap();
                    } else {
                        first.insert(*inode, path);
                        header.set_entry_type(EntryType::Regular);
                        body = &file.body;
                    }
                    &file.meta
                }
            };
            pax(&mut archive, meta);
            header.set_path(path).unwrap();
            header.set_mode(meta.mode);
            header.set_uid(meta.uid.into());
            header.set_gid(meta.gid.into());
            header.set_mtime(u64::try_from(meta.mtime.0).unwrap());
            header.set_size(body.len() as u64);
            header.set_cksum();
            archive.append(&header, body).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }
}

/// Writes PAX records for values that do not fit in a plain header.
fn pax(archive: &mut Builder<impl std::io::Write>, meta: &Meta) {
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    if meta.mtime.1 > 0 {
        let text = format!("{}.{:09}", meta.mtime.0, meta.mtime.1);
        records.push(("mtime".to_owned(), text.into_bytes()));
    }
    for (name, value) in &meta.xattrs {
        records.push((format!("SCHILY.xattr.{name}"), value.clone()));
    }
    let records = records.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    archive.append_pax_extensions(records).unwrap();
}

fn meta(mode: u32, dice: &mut Dice) -> Meta {
    let (uid, gid) = owner(dice);
    Meta { mode, uid, gid, mtime: time(dice), xattrs: BTreeMap::new() }
}

fn owner(dice: &mut Dice) -> (u32, u32) {
    [(0, 0), (0, 0), (0, 0), (33, 33), (1000, 100)][dice.below(5)]
}

fn time(dice: &mut Dice) -> (i64, u32) {
    let nanoseconds = if dice.percent(20) { 123_456_789 } else { 0 };
    (EPOCH + i64::try_from(dice.below(1000)).unwrap(), nanoseconds)
}
