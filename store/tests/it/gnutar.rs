//! Unpacks the same archives with this crate and with GNU tar, and compares the two results entry
//! by entry. Roots are compared in every link mode. For each entry, the comparison covers the kind,
//! bytes, mode, owner, mtime, `user.*` attributes, link target and hardlink group. For the root
//! itself, the comparison covers the mode, owner, mtime and `user.*` attributes.

#![allow(clippy::print_stderr, reason = "tests print what they could not try")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::rig::{configuration, dump_all as dump, layer, options, run, same};
use deploy_store::{Layer, LinkMode, Store, unpack};
use deploy_testing::directories;

/// Makes a tree with many kinds of entries that occur in deployments: nested directories, modes,
/// links, groups, a sparse file, odd names and equal files.
fn sample(dir: &Path) {
    fs::create_dir_all(dir.join("a/deep/er")).unwrap();
    fs::write(dir.join("a/one"), "one\n").unwrap();
    fs::write(dir.join("a/twin1"), "twin").unwrap();
    fs::write(dir.join("a/twin2"), "twin").unwrap();
    fs::write(dir.join("a/empty"), "").unwrap();
    fs::write(dir.join("a/deep/er/big"), vec![7; 300_000]).unwrap();
    fs::write(dir.join("a/deep/name with \n newline \u{e9}"), "odd").unwrap();
    fs::hard_link(dir.join("a/one"), dir.join("a/deep/one-again")).unwrap();
    fs::hard_link(dir.join("a/one"), dir.join("z-one")).unwrap();
    std::os::unix::fs::symlink("../a//deep/../one", dir.join("a/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.join("dangling")).unwrap();
    fs::set_permissions(dir.join("a/twin1"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(dir.join("a/one"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(dir.join("a/deep"), fs::Permissions::from_mode(0o2770)).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3_000_000).unwrap();
    sparse.set_len(4_000_000).unwrap();
    run("mkfifo", &["-m", "640", "fifo"], dir);
    own(&dir.join("a/one"), 1000, 50);
    own(&dir.join("a/deep"), 1000, 1000);
    own(dir, 1001, 50);
    fs::set_permissions(dir.join("a/deep"), fs::Permissions::from_mode(0o2770)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o2751)).unwrap();
    attribute(&dir.join("a/one"), "user.b", b"x\n\0y");
    attribute(&dir.join("a/one"), "user.a", b"");
    attribute(&dir.join("a/deep"), "user.d", b"1");
    attribute(dir, "user.r", b"2");
    for (name, time) in [
        ("a/twin1", "@1500000000.25"),
        ("a/twin2", "@1500000000.25"),
        ("a/deep", "@-5"),
        ("a", "@1"),
        (".", "@9.5"),
    ] {
        run("touch", &["-h", "-d", time, name], dir);
    }
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    match rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(err) => panic!("{}: {err}", path.display()),
    }
}

fn own(path: &Path, uid: u32, gid: u32) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// Makes the tree of the second layer. This layer replaces a file, and turns a directory into a
/// file and a file into a directory.
fn upper(dir: &Path) {
    fs::create_dir_all(dir.join("a/deep")).unwrap();
    fs::create_dir_all(dir.join("a/empty/now-a-directory")).unwrap();
    fs::write(dir.join("a/deep/er"), "was a directory").unwrap();
    fs::write(dir.join("z-one"), "no longer linked").unwrap();
    fs::set_permissions(dir.join("z-one"), fs::Permissions::from_mode(0o751)).unwrap();
    // GNU tar would keep the attributes of the first layer if the second layer had none.
    attribute(&dir.join("a/deep"), "user.d", b"3");
    attribute(dir, "user.r", b"4");
    for (name, time) in [("a/deep", "@44"), ("a", "@33"), (".", "@55")] {
        run("touch", &["-h", "-d", time, name], dir);
    }
}

/// Makes two archives in `format`, and unpacks both archives into one directory with GNU tar.
/// Returns the paths of the archives and of this directory, which contains the expected result.
fn archives(work: &Path, format: &[&str], suffix: &str) -> ([PathBuf; 2], PathBuf) {
    let made = [("lower", sample as fn(&Path)), ("upper", upper)].map(|(name, make)| {
        let tree = work.join(name);
        fs::create_dir(&tree).unwrap();
        make(&tree);
        let archive = work.join(format!("{name}{suffix}"));
        let mut arguments = vec!["-caf", archive.to_str().unwrap()];
        arguments.extend_from_slice(format);
        if format.contains(&"--format=posix") {
            arguments.push("--xattrs");
        }
        arguments.push(".");
        run("tar", &arguments, &tree);
        archive
    });
    let expected = work.join("expected");
    fs::create_dir(&expected).unwrap();
    let unpack = ["--xattrs", "--numeric-owner", "-xpf"];
    run("tar", &[&unpack[..], &[made[0].to_str().unwrap()]].concat(), &expected);
    // GNU tar does not replace a non-empty directory by a file, nor a file by a directory. So the
    // test removes these entries first.
    fs::remove_dir_all(expected.join("a/deep/er")).unwrap();
    fs::remove_file(expected.join("a/empty")).unwrap();
    run("tar", &[&unpack[..], &[made[1].to_str().unwrap()]].concat(), &expected);
    (made, expected)
}

#[test]
fn unpack_matches_gnu_tar() {
    let formats: [(&[&str], &str); 5] = [
        (&["--format=gnu", "-S"], ".tar.gz"),
        (&["--format=posix", "-S"], ".tar.gz"),
        (&["--format=posix", "--sparse-version=0.1", "-S"], ".tar"),
        (&["--format=posix", "--sparse-version=0.0", "-S"], ".tar"),
        (&["--format=gnu"], ".tar"),
    ];
    for dir in directories() {
        for (format, suffix) in formats {
            let work = tempfile::tempdir_in(&dir).unwrap();
            let (archives, expected) = archives(work.path(), format, suffix);
            let into = work.path().join("ours");
            unpack(&archives, &into, options(LinkMode::Auto)).unwrap();
            let (ours, theirs) = (dump(&into), dump(&expected));
            same(&ours, &theirs, &format!("{format:?} in {}", dir.display()));
        }
    }
}

#[test]
fn roots_match_gnu_tar_in_every_link_mode() {
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Reflink, LinkMode::Hardlink, LinkMode::Copy] {
            let work = tempfile::tempdir_in(&dir).unwrap();
            let (archives, expected) = archives(work.path(), &["--format=posix"], ".tar.gz");
            let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
            let layers: Vec<Layer> = archives
                .iter()
                .enumerate()
                .map(|(n, archive)| layer(&store, &format!("c{n}"), archive))
                .collect();
            let configuration = configuration(&layers);
            let root = match store.root(&configuration) {
                Err(err) if link == LinkMode::Reflink => {
                    // The only accepted cause is that the filesystem cannot clone files.
                    assert!(err.to_string().contains("clone"), "{err}");
                    eprintln!("no reflinks in {}: {err}", dir.display());
                    continue;
                }
                other => other.unwrap(),
            };
            let what = format!("{link:?} ({:?}) in {}", store.link_mode(), dir.display());
            same(&dump(&root.path), &dump(&expected), &what);
            assert!(!root.reused && store.root(&configuration).unwrap().reused);

            // The second root has the same layers in another order. The third root equals the first
            // root.
            let other = crate::rig::configuration(&[layers[1].clone(), layers[0].clone()]);
            store.root(&other).unwrap();
            store.sweep_roots(&[other.id()]).unwrap();
            let again = store.root(&configuration).unwrap();
            same(&dump(&again.path), &dump(&expected), &what);
            if store.link_mode() == LinkMode::Hardlink {
                assert_eq!(again.placed.copied, 0, "equal files must also be hardlinks");
            }
        }
    }
}
