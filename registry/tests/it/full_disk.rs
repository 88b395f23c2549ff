//! Tests a full disk. Every acknowledged change stays. The registry refuses an upload that does not
//! fit, and keeps no file of that upload. Changes work again once there is free space.

use std::fs::{self, File};
use std::io::Write as _;

use crate::rig::{Rig, both, names};

#[test]
fn full_disk_loses_nothing_and_work_resumes() {
    let mut rig = Rig::idle();
    rig.flags = ["-min-free", "0"].map(str::to_owned).to_vec();
    let Some(dir) = rig.on_small_disk() else { return };
    rig.run();
    let kept = rig.archive("kept.tar.gz", b"kept");
    rig.put("kept.tar.gz");
    rig.ok(&format!("addver -name code -version v1 -hash {kept}"));
    rig.ok("addconf -name project1 -layer code:v1");

    // This upload does not fit on the disk.
    fs::write(rig.path("big"), vec![7; 20 << 20]).unwrap();
    let refused = rig.sftp("op", "me", "put big");
    assert!(!refused.status.success(), "{}", both(&refused));
    rig.wait_for_log("upload fail");
    rig.wait_for_log("No space left on device");
    assert!(rig.uploads().is_empty(), "{:?}", rig.uploads());

    // While no byte is free, the registry refuses changes.
    let next = rig.archive("next.tar.gz", b"next");
    rig.put("next.tar.gz");
    let ballast = dir.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    let output = rig.ssh("op", "me", &[&format!("addver -name code -version v2 -hash {next}")]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert_eq!(
        both(&output),
        "catalogue: database or disk is full; nothing was changed; run gc to free disk space\n"
    );
    rig.stop("-KILL");

    // Reads work while the disk is full, and changes work again once there is free space.
    rig.run();
    assert_eq!(rig.ok("configurations"), "project1\n");
    assert_eq!(rig.ok("showcomp -name code").lines().count(), 1);
    drop(file);
    fs::remove_file(ballast).unwrap();
    rig.ok(&format!("addver -name code -version v2 -hash {next}"));
    rig.ok("bumpconf -name project1 -component code");
    assert_eq!(names(&rig.path("reg/files")).len(), 2);
}
