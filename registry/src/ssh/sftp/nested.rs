//! Keeps the directories that a client creates in a component's directory. A client that uploads
//! the directory `DIRECTORY` to `/put/NAME` first creates `/put/NAME/DIRECTORY`. The registry only
//! remembers the path of the new directory. Files in the new directory belong to the component.

use std::collections::HashSet;

use russh_sftp::protocol::Packet;

use crate::view::view_path::{MAX_PATH, clean};

/// Maximum number of directories of one channel.
const MAX_DIRECTORIES: usize = 64;

/// The directories that the client of a channel created, as `/put/NAME/DIRECTORY`.
#[derive(Debug, Default)]
pub struct NestedDirectories(HashSet<String>);

impl NestedDirectories {
    /// Creates a directory, unless the directory exists already. Returns false if there are too
    /// many directories.
    pub fn make(&mut self, path: &str) -> bool {
        let path = clean(path);
        self.0.contains(&path) || (self.0.len() < MAX_DIRECTORIES && self.0.insert(path))
    }

    /// Removes the names of these directories from the paths of a request.
    pub fn without(&self, mut packet: Packet) -> Packet {
        if self.0.is_empty() {
            return packet;
        }
        match &mut packet {
            Packet::Open(request) => self.shorten(&mut request.filename),
            Packet::Stat(request) => self.shorten(&mut request.path),
            Packet::Lstat(request) => self.shorten(&mut request.path),
            Packet::SetStat(request) => self.shorten(&mut request.path),
            Packet::OpenDir(request) => self.shorten(&mut request.path),
            Packet::MkDir(request) => self.shorten(&mut request.path),
            Packet::Remove(request) => self.shorten(&mut request.filename),
            Packet::Rename(request) => {
                self.shorten(&mut request.oldpath);
                self.shorten(&mut request.newpath);
            }
            _ => {}
        }
        packet
    }

    fn shorten(&self, path: &mut String) {
        while path.len() <= MAX_PATH {
            let cleaned = clean(path);
            let ends = cleaned.match_indices('/').map(|(at, _)| at).chain([cleaned.len()]);
            // The ends of the prefixes "", /put, /put/NAME and /put/NAME/DIRECTORY. The code needs
            // the last two ends.
            let ends: Vec<usize> = ends.skip(2).take(2).collect();
            let [component, directory] = ends[..] else { return };
            if !self.0.contains(&cleaned[..directory]) {
                return;
            }
            *path = format!("{}{}", &cleaned[..component], &cleaned[directory..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_a_nested_directory_belong_to_the_component() {
        let mut nested = NestedDirectories::default();
        assert!(nested.make("put/code/dir/"));
        for (path, wanted) in [
            ("/put/code/dir/v1", "/put/code/v1"),
            ("put/./code/dir", "/put/code"),
            ("/put/code/v1", "/put/code/v1"),
            ("/put/code/dirt/v1", "/put/code/dirt/v1"),
            ("/put/other/dir/v1", "/put/other/dir/v1"),
            ("/put/code", "/put/code"),
            ("/put/code/dir/dir/v1", "/put/code/v1"),
            ("x", "x"),
        ] {
            let mut path = path.to_owned();
            nested.shorten(&mut path);
            assert_eq!(path, wanted);
        }
        for n in 1..MAX_DIRECTORIES {
            assert!(nested.make(&format!("/put/code/{n}")));
        }
        assert!(!nested.make("/put/code/0") && nested.make("/put/code/1"));
    }
}
