//! Replays the packets of clients that cannot be installed on the test machine.

use std::fs;

use crate::raw::sftp::{
    APPEND, Answer, LSTAT, MKDIR, NEW, REALPATH, REMOVE, SETSTAT, STAT, Sftp, attributes,
};

use super::{DENIED, DONE, FAILURE, NOT_FOUND, site, versions};

/// `WinSCP` 6 looks for the file, uploads the file with the ending `.filepart`, sets its times, and
/// renames the file. After a lost connection, `WinSCP` continues a partial file.
#[test]
fn winscp_packets_are_served() {
    let rig = site();
    let bytes = fs::read(rig.path("x.tgz")).unwrap();
    let size = bytes.len() as u64;
    let mut sftp = Sftp::start(&rig);
    assert_eq!(sftp.path(REALPATH, ".", &[]), Answer::Names(vec!["/".to_owned()]));
    for (part, whole) in [("/put/code/v1.filepart", "/put/code/v1"), ("/x.tgz.filepart", "/x.tgz")]
    {
        assert_eq!(sftp.path(LSTAT, whole, &[]), NOT_FOUND);
        assert_eq!(sftp.path(LSTAT, part, &[]), NOT_FOUND);
        assert_eq!(sftp.upload(part, NEW, &bytes), DONE);
        assert_eq!(sftp.path(SETSTAT, part, &attributes(0o100_644, 1)), DONE);
        assert_eq!(sftp.path(LSTAT, part, &[]), Answer::File(false, size));
        assert_eq!(rig.ok("components"), if part.contains("put") { "" } else { "code\n" });
        assert_eq!(sftp.rename(part, whole), DONE);
        assert_eq!(sftp.path(LSTAT, part, &[]), NOT_FOUND);
        assert_eq!(sftp.path(LSTAT, whole, &[]), Answer::File(false, size));
    }
    assert_eq!(sftp.list("/put/code"), ["v1"]);
    assert!(sftp.list("/").contains(&"x.tgz".to_owned()));
    // The registry refuses an existing version before the client sends a byte.
    assert_eq!(sftp.upload("/put/code/v1.filepart", NEW, &bytes), FAILURE);
    // At the rename, the version exists already. So nothing changes, and the bytes stay staged.
    assert_eq!(sftp.upload("/put/code/v2.filepart", NEW, &bytes), DONE);
    assert_eq!(sftp.rename("/put/code/v2.filepart", "/put/code/v1"), FAILURE);
    assert_eq!(sftp.path(STAT, "/put/code/v2.filepart", &[]), Answer::File(false, size));
    assert_eq!(sftp.upload("/put/code/v2.filepart", APPEND, &bytes[..9]), FAILURE);
    assert_eq!(sftp.path(REMOVE, "/put/code/v2.filepart", &[]), DONE);
    assert_eq!(sftp.path(REMOVE, "/put/code/v1", &[]), DENIED);
    // An archive that no agent could unpack does not become a version under either name.
    assert_eq!(sftp.upload("/put/code/v3.filepart", NEW, b"text"), DONE);
    assert_eq!(sftp.rename("/put/code/v3.filepart", "/put/code/v3"), FAILURE);
    let told = sftp.end();
    assert!(told.contains("version \"v1\" already exists"), "{told}");
    assert!(told.contains("no agent could unpack"), "{told}");
    assert_eq!(versions(&rig, "code"), ["v1"]);
    let audit = rig.ok("audit");
    assert_eq!(audit.matches("addver -name=code -version=v1").count(), 1, "{audit}");
}

/// `FileZilla` makes and enters the directory, uploads the file, sets its time, and lists the
/// directory again.
#[test]
fn filezilla_packets_are_served() {
    let rig = site();
    let bytes = fs::read(rig.path("x.tgz")).unwrap();
    let mut sftp = Sftp::start(&rig);
    assert_eq!(sftp.path(MKDIR, "/put/code", &[0; 4]), DONE);
    assert_eq!(sftp.path(STAT, "/put/code", &[]), Answer::File(true, 0));
    assert!(sftp.list("/put/code").is_empty());
    assert_eq!(sftp.upload("/put/code/v1", NEW, &bytes), DONE);
    assert_eq!(sftp.path(SETSTAT, "/put/code/v1", &attributes(0o100_600, 7)), DONE);
    assert_eq!(sftp.path(SETSTAT, "/put/code", &attributes(0o040_755, 7)), DONE);
    assert_eq!(sftp.list("/put/code"), ["v1"]);
    for (path, answer) in [
        ("/put/code/v1/x", FAILURE),
        ("/put/.code", FAILURE),
        ("/put/x.tgz", FAILURE),
        ("/components/code", FAILURE),
        ("/", FAILURE),
        ("/components/new", DENIED),
        ("/d", DENIED),
    ] {
        assert_eq!(sftp.path(MKDIR, path, &[0; 4]), answer, "{path}");
    }
    // The registry refuses to set a size that differs from the size of the file.
    let shorter = [&[0, 0, 0, 1][..], &7_u64.to_be_bytes()].concat();
    assert_eq!(sftp.path(SETSTAT, "/put/code/v1", &shorter), DENIED);
    assert_eq!(sftp.path(SETSTAT, "/put/code/v9", &attributes(0o100_600, 7)), NOT_FOUND);
}

/// If temporary names are switched on, Cyberduck uploads to NAME-RANDOM, and then renames the file.
/// NAME-RANDOM does not look like a temporary name.
#[test]
fn cyberduck_packets_are_served() {
    let rig = site();
    let bytes = fs::read(rig.path("x.tgz")).unwrap();
    let mut sftp = Sftp::start(&rig);
    assert_eq!(sftp.upload("/put/code/v1-Ab3dE5gH", NEW, &bytes), DONE);
    assert_eq!(sftp.path(SETSTAT, "/put/code/v1-Ab3dE5gH", &attributes(0o100_644, 7)), DONE);
    assert_eq!(sftp.rename("/put/code/v1-Ab3dE5gH", "/put/code/v1"), DONE);
    assert_eq!(versions(&rig, "code"), ["v1"]);
    // A rename keeps the version under the old name if a configuration already uses this version.
    assert_eq!(sftp.upload("/put/code/v2-Ab3dE5gH", NEW, &bytes), DONE);
    rig.ok("addconf -name p -layer code:v2-Ab3dE5gH");
    assert_eq!(sftp.rename("/put/code/v2-Ab3dE5gH", "/put/code/v2"), DONE);
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v2-Ab3dE5gH"]);
    // A client cannot rename a version that was uploaded over another connection.
    let mut other = Sftp::start(&rig);
    assert_eq!(other.rename("/put/code/v2", "/put/code/v3"), DENIED);
}
