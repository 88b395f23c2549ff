//! Tests `deploy-from-docker` with a real registry. The tests check the configurations, components
//! and blobs that the program makes from images.

mod known_layers;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::image::{CONFIG, LAYER, Layout, Tar, config, docker, gzip};
use crate::rig::{Rig, binary};
use deploy_store::Digest;

/// Makes three layers. The second layer is empty, and the third layer removes files of the first
/// layer.
fn layers() -> Vec<Vec<u8>> {
    let first = Tar::new().dir("etc/").file("etc/old", "old").file("etc/kept", "kept");
    let first = first.dir("var/").file("var/a", "a").hardlink("var/b", "var/a");
    let third = Tar::new().file("etc/.wh.old", "").file("var/.wh.a", "").file("etc/new", "new");
    vec![first.end(), Tar::new().end(), third.end()]
}

/// Every file below a directory with its contents, sorted by path.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The names in a directory, sorted.
fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The files that an agent unpacks from the blobs that `-into` wrote.
fn unpacked(rig: &Rig, into: &str) -> Vec<(String, String)> {
    let names = fs::read_to_string(rig.path(into).join("layers")).unwrap();
    let blobs = names.lines().map(|name| rig.path(into).join(name));
    let mut agent = Command::new(binary("deploy-agent"));
    agent.arg("unpack").args(blobs).arg("-into").arg(rig.path("root"));
    assert!(agent.status().unwrap().success());
    let found = files(&rig.path("root"));
    fs::remove_dir_all(rig.path("root")).unwrap();
    found
}

#[test]
fn image_becomes_a_configuration() {
    let rig = Rig::start();
    rig.import(&[], &docker(&[("app:1.4", &layers())])).good();
    assert_eq!(rig.operator(&["configurations"]), "app.1.4\n");
    assert_eq!(rig.operator(&["components"]), "app.1.4.l1\napp.1.4.l3\n");
    let (_, found) = rig.configuration("app.1.4");
    let names: Vec<_> = found.iter().map(|(component, _)| component.as_str()).collect();
    assert_eq!(names, ["app.1.4.l1", "app.1.4.l3"], "empty layers are left out");
    // Each version is named by the digest of its blob, and the registry has no other blobs.
    let mut versions: Vec<_> = found.into_iter().map(|(_, version)| version).collect();
    versions.sort();
    assert_eq!(list(&rig.path("reg/files")), versions);
    assert!(list(&rig.path("reg/uploads")).is_empty());
}

#[test]
fn whiteouts_are_applied_before_upload() {
    let rig = Rig::start();
    let image = docker(&[("app:1.4", &layers())]);
    rig.alone(&["-into", "into", "-name", "app"], &image).good();
    let names = fs::read_to_string(rig.path("into/layers")).unwrap();
    assert_eq!(names, "app.l1.tar.gz\napp.l3.tar.gz\n");
    assert_eq!(list(&rig.path("into")), ["app.l1.tar.gz", "app.l3.tar.gz", "layers"]);
    let pair = |name: &str, content: &str| (name.to_owned(), content.to_owned());
    let wanted = [pair("etc/kept", "kept"), pair("etc/new", "new"), pair("var/b", "a")];
    assert_eq!(unpacked(&rig, "into"), wanted);
    let mut tar = Command::new("tar");
    let listed = tar.arg("-tzf").arg(rig.path("into/app.l3.tar.gz")).output().unwrap().stdout;
    assert_eq!(String::from_utf8(listed).unwrap(), "etc/new\n", "no whiteout is left");
}

#[test]
fn imported_blobs_are_reproducible() {
    let rig = Rig::start();
    let image = docker(&[("app:1.4", &layers())]);
    for into in ["one", "two"] {
        rig.alone(&["-into", into, "-name", "app"], &image).good();
    }
    rig.import(&["-name", "app"], &image).good();
    let (_, found) = rig.configuration("app");
    for (component, version) in found {
        let name = format!("{component}.tar.gz");
        let bytes = fs::read(rig.path("one").join(&name)).unwrap();
        assert_eq!(bytes, fs::read(rig.path("two").join(&name)).unwrap());
        assert_eq!(Digest::of(&bytes).to_string(), version);
    }
}

#[test]
fn image_formats_give_the_same_result() {
    let rig = Rig::start();
    let layers = layers();
    let mut packed = Layout::default();
    let gzipped = layers.iter().map(|layer| packed.blob(&format!("{LAYER}+gzip"), &gzip(layer)));
    let gzipped: Vec<_> = gzipped.collect();
    let said = packed.blob(CONFIG, config(&layers).to_string().as_bytes());
    let manifest = packed.manifest(&said, &gzipped);
    let index = packed.index(&[manifest]);
    packed.list(index);
    let plain = Layout::of(&layers).archive();
    fs::create_dir(rig.path("layout")).unwrap();
    fs::write(rig.path("oci.tar"), &plain).unwrap();
    let mut tar = Command::new("tar");
    assert!(
        tar.arg("-xf")
            .arg(rig.path("oci.tar"))
            .arg("-C")
            .arg(rig.path("layout"))
            .status()
            .unwrap()
            .success()
    );

    rig.import(&["-name", "app"], &docker(&[("app:1.4", &layers)])).good();
    let before = rig.everything();
    for image in [gzip(&docker(&[("other:9", &layers)])), plain, packed.archive()] {
        rig.import(&["-name", "app"], &image).good();
        assert_eq!(rig.everything(), before);
    }
    for path in ["layout", "oci.tar"] {
        let output = rig.importer(&["-name", "app", path]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(rig.everything(), before);
    }
}

#[test]
fn dry_run_changes_nothing() {
    let rig = Rig::start();
    for flag in ["-dry-run", "-n"] {
        let mut importer = rig.importer(&["-name", "app", flag, "image.tar"]);
        fs::write(rig.path("image.tar"), docker(&[("app:1", &layers())])).unwrap();
        let output = importer.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("app.l1"), "{told}");
        assert_eq!(rig.operator(&["configurations"]) + &rig.operator(&["components"]), "");
        assert!(
            list(&rig.path("reg/files")).is_empty() && list(&rig.path("reg/uploads")).is_empty()
        );
    }
}

#[test]
fn layers_can_be_added_on_top() {
    let rig = Rig::start();
    fs::write(rig.path("content"), "settings").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["czf", "a.tar.gz", "content"]).current_dir(rig.path(""));
    assert!(tar.status().unwrap().success());
    for component in ["settings", "more"] {
        rig.operator(&["addver", "-name", component, "-version", "v1", "-file", "a.tar.gz"]);
    }
    let flags = ["-name", "app", "-layer", "settings:v1", "-layer", "more:v1"];
    rig.import(&flags, &docker(&[("app:1", &layers())])).good();
    let (_, found) = rig.configuration("app");
    let names: Vec<_> = found.iter().map(|(component, _)| component.as_str()).collect();
    assert_eq!(names, ["app.l1", "app.l3", "settings", "more"]);
    assert_eq!(found[2].1, "v1");
}

#[test]
fn image_settings_are_kept_on_request() {
    let rig = Rig::start();
    let image = docker(&[("app:1.4", &layers())]);
    rig.alone(&["-into", "with", "-name", "app", "-image-config"], &image).good();
    let found = unpacked(&rig, "with");
    let (_, text) = found.iter().find(|(name, _)| name == ".deploy/image.json").unwrap();
    for word in ["/bin/app", "-x", "A=b", "7", "/srv"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let parsed: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(parsed.is_object());
    let names = fs::read_to_string(rig.path("with/layers")).unwrap();
    assert_eq!(names.lines().count(), 3);
}

/// If the program is killed at any time, `-into` leaves only complete layers under their final
/// names. The list exists only if all layers exist.
#[test]
fn killed_import_leaves_no_partial_layer() {
    let rig = Rig::start();
    let mut state = 1_u64;
    let mut noise = || -> Vec<u8> {
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        next.take(1 << 20).collect()
    };
    let layers: Vec<_> = (0..6).map(|n| Tar::new().file(&format!("{n}"), noise()).end()).collect();
    fs::write(rig.path("image.tar"), docker(&[("app:1", &layers)])).unwrap();
    let importer = |into: &str| rig.offline(&["-name", "app", "-into", into, "image.tar"]);
    let whole = |name: &str| fs::read(rig.path("whole").join(name)).unwrap();
    let begun = Instant::now();
    assert!(importer("whole").status().unwrap().success());
    let took = begun.elapsed();
    let mut some = 0;
    for round in 0..24_u32 {
        let into = format!("round{round}");
        let mut child = importer(&into).spawn().unwrap();
        std::thread::sleep(took * round / 24);
        child.kill().unwrap();
        child.wait().unwrap();
        let left = if rig.path(&into).exists() { list(&rig.path(&into)) } else { Vec::new() };
        let named: Vec<_> = left.iter().filter(|name| !name.ends_with(".unfinished")).collect();
        for name in &named {
            let bytes = fs::read(rig.path(&into).join(name)).unwrap();
            assert!(bytes == whole(name), "round {round}: {name} is cut");
        }
        assert!(named.len() == 7 || !named.iter().any(|name| *name == "layers"), "{named:?}");
        some += u32::from(!named.is_empty());
        // Leftovers do not affect the next run.
        if round % 8 == 7 {
            assert!(importer(&into).status().unwrap().success());
            assert_eq!(list(&rig.path(&into)), list(&rig.path("whole")));
        }
    }
    assert!(some > 0, "every run was killed before it wrote a file");
}

#[test]
fn zstd_is_used_on_request() {
    let rig = Rig::start();
    let image = docker(&[("app:1.4", &layers())]);
    rig.alone(&["-into", "into", "-name", "app", "-compress", "zstd"], &image).good();
    let names = fs::read_to_string(rig.path("into/layers")).unwrap();
    assert_eq!(names, "app.l1.tar.zst\napp.l3.tar.zst\n");
    assert_eq!(unpacked(&rig, "into").len(), 3);
    rig.import(&["-name", "app", "-compress", "zstd"], &image).good();
    let (zstd, _) = rig.configuration("app");
    // A blob with one compression does not replace a blob with the other compression.
    rig.import(&["-name", "app"], &image).good();
    assert_ne!(rig.configuration("app").0, zstd);
}

#[test]
fn concurrent_imports_do_not_interfere() {
    let rig = Rig::start();
    let image = docker(&[("app:1", &layers())]);
    std::thread::scope(|threads| {
        let imports: Vec<_> =
            (0..4).map(|_| threads.spawn(|| rig.import(&["-name", "app"], &image))).collect();
        for import in imports {
            import.join().unwrap().good();
        }
    });
    let (id, _) = rig.configuration("app");
    rig.import(&["-name", "other"], &image).good();
    assert_eq!(rig.configuration("other").0, id);
}
