//! Listens on Unix sockets in an open directory, and connects to such sockets. The system limits
//! the path of a socket to 107 bytes, so this module uses a short path through the descriptor of
//! the directory.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::dir::Dir;
use crate::error::{Error, Result};

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 16;

impl Dir {
    /// Listens on the socket `name`. Only the owner of the socket may connect. An existing socket
    /// with this name is replaced. Another kind of file with this name is an error.
    pub fn listen(&self, name: &CStr) -> Result<UnixListener> {
        match self.stat(name) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                self.remove_file(name)?;
            }
            Ok(_) => {
                let why = "another file has this name; move that file away";
                let reason = std::io::Error::other(why);
                return Err(Error::io("listen on", self.path_of(name), reason));
            }
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err),
        }
        self.listen_new(name).map_err(|err| Error::io("listen on", self.path_of(name), err))
    }

    fn listen_new(&self, name: &CStr) -> rustix::io::Result<UnixListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The mode is set before the socket has a name, so other users can never connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(self.way_to(name))?)?;
        listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    }

    /// Connects to the socket `name`. Returns `None` if no process listens on the socket.
    pub fn connect(&self, name: &CStr) -> Result<Option<UnixStream>> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match UnixStream::connect(self.way_to(name)) {
            Ok(stream) => Ok(Some(stream)),
            Err(err) if matches!(err.kind(), NotFound | ConnectionRefused) => Ok(None),
            Err(err) => Err(Error::io("connect to", self.path_of(name), err)),
        }
    }

    fn way_to(&self, name: &CStr) -> PathBuf {
        let fd = self.as_fd().as_raw_fd();
        PathBuf::from(format!("/proc/self/fd/{fd}/{}", name.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn listening_replaces_stale_sockets_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(200));
        let dir = Dir::open_or_create(&deep, 0o755).unwrap();
        assert!(dir.connect(c"control").unwrap().is_none());
        let first = dir.listen(c"control").unwrap();
        let mode = std::fs::metadata(deep.join("control")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(dir.connect(c"control").unwrap().is_some());
        drop(first);
        assert!(dir.connect(c"control").unwrap().is_none());
        let _second = dir.listen(c"control").unwrap();
        assert!(dir.connect(c"control").unwrap().is_some());
        std::fs::write(deep.join("file"), "mine").unwrap();
        let refused = dir.listen(c"file").unwrap_err().to_string();
        assert!(refused.contains("another file has this name"), "{refused}");
        assert_eq!(std::fs::read_to_string(deep.join("file")).unwrap(), "mine");
    }
}
