//! Tests mounts that a script or an operator makes below a root. The agent never changes or removes
//! a mount. Such a mount does not prevent the agent from starting, deploying and making spares.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::bench::{Agent, Bench, deployed, says};
use deploy_testing::{directories, eventually, in_own_mounts};

fn root(bench: &Bench) -> PathBuf {
    bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string())
}

fn precious(bench: &Bench) -> PathBuf {
    let precious = bench.path("precious");
    fs::create_dir_all(precious.join("deep")).unwrap();
    fs::write(precious.join("deep/b"), "keep").unwrap();
    precious
}

fn is_whole(precious: &Path) {
    assert_eq!(fs::read_to_string(precious.join("deep/b")).unwrap(), "keep");
}

fn mount(arguments: &[&str], at: &Path) {
    assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
}

fn umount(at: &Path) {
    assert!(Command::new("umount").arg(at).status().unwrap().success());
}

#[test]
fn mount_below_a_root_stays_untouched_while_the_agent_deploys() {
    if !in_own_mounts("mounts::mount_below_a_root_stays_untouched_while_the_agent_deploys") {
        return;
    }
    for (dir, link) in directories().iter().flat_map(|dir| ["auto", "copy"].map(|it| (dir, it))) {
        let bench = Bench::within(dir);
        let precious = precious(&bench);
        bench.first_configuration();
        let agent = Agent::start(&bench, &["-link", link]);
        says(&bench, &["sync"], 0, "");
        let first = root(&bench);
        fs::create_dir(first.join("data")).unwrap();
        mount(&["--bind", precious.to_str().unwrap()], &first.join("data"));
        for (n, version) in ["v02", "v03", "v04"].into_iter().enumerate() {
            eventually("a new spare is ready", || {
                bench.agent_log().matches("spare root made").count() > n
            });
            bench.bump(version, version);
            says(&bench, &["sync"], 0, "switched");
        }
        is_whole(&precious);
        assert!(first.join("conf").exists(), "a root with a mount below it stays complete");
        let log = bench.agent_log();
        let told = format!("something is mounted on {}", first.join("data").display());
        assert_eq!(log.matches(&told).count(), 1, "{log}");
        says(&bench, &["gc", "-n"], 0, &told);
        says(&bench, &["gc"], 0, &told);
        agent.stop();
        // The agent also does not touch a mount below a directory that a killed agent left behind.
        let id = first.file_name().unwrap().to_str().unwrap();
        fs::remove_file(bench.path("a1/roots").join(id)).unwrap();
        fs::remove_file(bench.path(&format!("a1/unpacked/{id}.ok"))).unwrap();
        let left = bench.path("a1/unpacked/.old-1-1");
        umount(&first.join("data"));
        fs::rename(&first, &left).unwrap();
        mount(&["-t", "tmpfs", "none"], &left.join("data"));
        fs::write(left.join("data/db"), "keep").unwrap();
        let agent = Agent::start(&bench, &["-link", link]);
        bench.bump("v05", "v05");
        says(&bench, &["sync"], 0, "switched");
        assert_eq!(fs::read_to_string(left.join("data/db")).unwrap(), "keep");
        umount(&left.join("data"));
        says(&bench, &["gc"], 0, "");
        assert!(!left.exists());
        is_whole(&precious);
        agent.stop();
    }
}

/// Makes mounts of many kinds below `root`. Returns the mount points, and a process whose working
/// directory is in one of the mounts.
fn mount_every_kind(bench: &Bench, root: &Path, precious: &Path) -> (Vec<PathBuf>, Child) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let at = |name: &str| {
        let at = root.join(name);
        fs::create_dir_all(&at).unwrap();
        at
    };
    let mut mounts = Vec::new();
    let mut mounted = |arguments: &[&str], at: PathBuf| {
        mount(arguments, &at);
        mounts.push(at);
    };
    fs::write(root.join("file"), "").unwrap();
    mounted(&["--bind", &text(&precious.join("deep/b"))], root.join("file"));
    mounted(&["--bind", "-o", "ro", &text(precious)], at("read-only"));
    mounted(&["--bind", &text(precious)], at("deep/in/busy"));
    mounted(&["-t", "tmpfs", "none"], at("tmpfs"));
    let layers = ["upper", "work"].map(|name| bench.path(name));
    for dir in &layers {
        fs::create_dir(dir).unwrap();
    }
    let [upper, work] = layers.map(|dir| text(&dir));
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", text(precious));
    mounted(&["-t", "overlay", "-o", &options, "none"], at("overlay"));
    let image = bench.path("image");
    fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", &text(&image)]).status().unwrap();
    assert!(made.success());
    mounted(&["-o", "loop", &text(&image)], at("device"));
    fs::write(root.join("device/b"), "keep").unwrap();
    fs::write(root.join("tmpfs/b"), "keep").unwrap();
    let user = Command::new("sleep").arg("600").current_dir(root.join("deep/in/busy")).spawn();
    (mounts, user.unwrap())
}

#[test]
fn mounts_of_every_kind_are_untouched() {
    if !in_own_mounts("mounts::mounts_of_every_kind_are_untouched") {
        return;
    }
    for dir in directories() {
        let bench = Bench::within(&dir);
        let precious = precious(&bench);
        bench.first_configuration();
        let agent = Agent::start(&bench, &["-keep-roots", "1"]);
        says(&bench, &["sync"], 0, "");
        let first = root(&bench);
        let (mounts, mut user) = mount_every_kind(&bench, &first, &precious);
        for version in ["v02", "v03"] {
            bench.bump(version, version);
            says(&bench, &["sync"], 0, "switched");
        }
        says(&bench, &["gc"], 0, "something is mounted on");
        agent.stop();
        let agent = Agent::start(&bench, &["-keep-roots", "1"]);
        says(&bench, &["sync"], 0, "");
        is_whole(&precious);
        for kept in ["file", "device/b", "tmpfs/b", "overlay/deep/b", "deep/in/busy/deep/b"] {
            assert_eq!(fs::read_to_string(first.join(kept)).unwrap(), "keep", "{kept}");
        }
        user.kill().unwrap();
        user.wait().unwrap();
        for at in mounts.iter().rev() {
            umount(at);
        }
        says(&bench, &["gc"], 0, "");
        assert!(!first.exists(), "the root remains, although nothing is mounted below it");
        is_whole(&precious);
        agent.stop();
    }
}

#[test]
fn root_with_a_mount_below_is_redeployed_in_place() {
    if !in_own_mounts("mounts::root_with_a_mount_below_is_redeployed_in_place") {
        return;
    }
    for dir in directories() {
        let bench = Bench::within(&dir);
        let precious = precious(&bench);
        bench.first_configuration();
        bench.script(&format!(
            "#!/bin/sh\nmkdir -p $NEWROOT/data\nsed -i s/one/filled/ $NEWROOT/conf\n\
             mountpoint -q $NEWROOT/data || mount --bind {} $NEWROOT/data\n[ -e healthy ]\n",
            precious.display()
        ));
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 1, "exit status 1");
        says(&bench, &["sync"], 1, "exit status 1");
        is_whole(&precious);
        fs::write(bench.path("healthy"), "").unwrap();
        says(&bench, &["sync"], 0, "switched");
        is_whole(&precious);
        assert_eq!(fs::read_to_string(root(&bench).join("conf")).unwrap(), "filled\n");
        assert!(root(&bench).join("data/deep/b").exists(), "the mount is still in place");
        let log = bench.agent_log();
        assert!(
            log.contains("uses the changed root") && log.contains("something is mounted"),
            "{log}"
        );
        assert_eq!(deployed(&bench), "v01");
        umount(&root(&bench).join("data"));
        agent.stop();
    }
}

#[test]
fn immutable_root_is_redeployed_in_place() {
    if !in_own_mounts("mounts::immutable_root_is_redeployed_in_place") {
        return;
    }
    for dir in directories() {
        let bench = Bench::within(&dir);
        bench.first_configuration();
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 0, "");
        let first = root(&bench);
        bench.bump("v02", "two\n");
        says(&bench, &["sync"], 0, "switched");
        fs::remove_file(first.join("conf")).unwrap();
        let chattr = |attribute: &str| {
            assert!(Command::new("chattr").arg(attribute).arg(&first).status().unwrap().success());
        };
        chattr("+i");
        bench.operator("ssh", &["rollback -name project1"], "");
        let said = says(&bench, &["sync"], 1, "");
        // The script fails because a file is missing in the changed root, which the agent has used.
        assert!(said.err.contains("exit status 1") || said.out.contains("exit status 1"));
        let log = bench.agent_log();
        assert!(log.contains("uses the changed root") && log.contains("it is immutable"), "{log}");
        chattr("-i");
        says(&bench, &["sync"], 0, "switched");
        assert_eq!(fs::read_to_string(first.join("conf")).unwrap(), "one\n");
        agent.stop();
    }
}
