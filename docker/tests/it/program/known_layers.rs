//! Tests imports of layers that the registry or the cache knows. The importer does not send layers
//! that the registry knows. It may read such layers again, or only hash them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::image::{CONFIG, LAYER, Layout, Tar, config, docker, gzip, layer};
use crate::rig::Rig;
use deploy_store::Digest;

use super::list;

#[test]
fn only_changed_layers_are_sent() {
    let rig = Rig::start();
    let mut layers = vec![layer("one", "one"), layer("two", "two"), layer("three", "three")];
    rig.import(&["-name", "app"], &docker(&[("app:1", &layers)])).good();
    let (_, first) = rig.configuration("app");
    let before = list(&rig.path("reg/files"));
    layers[2] = layer("three", "another");
    rig.import(&["-name", "app"], &docker(&[("app:2", &layers)])).good();
    let (_, second) = rig.configuration("app");
    assert_eq!(first[..2], second[..2]);
    assert_ne!(first[2], second[2]);
    assert_eq!(first[2].0, second[2].0, "a version of the same component");
    assert_eq!(list(&rig.path("reg/files")).len(), before.len() + 1);
    let history = rig.operator(&["history", "-name", "app"]);
    assert_eq!(history.lines().filter(|line| !line.trim().is_empty()).count(), 2, "{history}");
    // A removal changes only the layer whose member is removed.
    layers[2] = Tar::new().file(".wh.one", "").file("three", "three").end();
    rig.import(&["-name", "app"], &docker(&[("app:3", &layers)])).good();
    let (_, third) = rig.configuration("app");
    let names: Vec<_> = third.iter().map(|(component, _)| component.as_str()).collect();
    assert_eq!(names, ["app.l2", "app.l3"], "the first is empty now");
    assert_eq!(third[0], first[1]);
}

#[test]
fn known_layers_are_reread_only_if_others_change_them() {
    let rig = Rig::start();
    let large = |name: &str| {
        let text = format!("{name} ").repeat(100_000);
        Tar::new().file(name, &text).file(&format!("{name}.old"), &text)
    };
    let linked = large("two").hardlink("two.link", "two.old").end();
    let mut layers = vec![large("one").end(), linked, large("three").end(), large("last").end()];
    let import = |layers: &[Vec<u8>]| {
        fs::write(rig.path("image.tar"), docker(&[("app:1", layers)])).unwrap();
        let output = rig.importer(&["-q=false", "-name", "app", "image.tar"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    import(&layers);
    assert!(import(&layers).contains("4 layers, 4 reused, 0 bytes sent"));
    // Known layers are not written to the temporary files. The test limits the size of every file
    // to 50 KiB, so a write of such a layer would fail.
    let confined = |words: &[&str]| {
        let inner = rig.importer(words);
        let mut outer = Command::new("sh");
        outer.args(["-c", "ulimit -f 100; trap '' XFSZ; exec \"$@\"", "sh"]).env_clear();
        outer.arg(inner.get_program()).args(inner.get_args());
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.current_dir(inner.get_current_dir().unwrap());
        outer.stdin(fs::File::open(rig.path("image.tar")).unwrap()).output().unwrap()
    };
    let output = confined(&["-name", "app", "image.tar"]);
    assert!(output.status.success(), "{output:?}");
    let output = confined(&["-name", "app"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("temporary file"), "{said}");
    // Three of the five layers are known. The second layer loses the name to which a hardlink
    // leads.
    layers.push(Tar::new().file(".wh.two.old", "").file("four", "four").end());
    layers[2] = large("other").end();
    let said = import(&layers);
    assert!(said.contains("5 layers, 2 reused"), "{said}");
    // The blobs are the same as in an import that reads the image only once.
    rig.alone(&["-into", "into", "-name", "app"], &docker(&[("app:1", &layers)])).good();
    let (_, found) = rig.configuration("app");
    assert_eq!(found.len(), 5);
    for (component, version) in found {
        let bytes = fs::read(rig.path("into").join(format!("{component}.tar.gz"))).unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), version, "{component}");
    }
    // The input is a fifo now. A fifo cannot be read twice, so nothing is read again.
    let before = rig.everything();
    let fifo = rig.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let image = docker(&[("app:1", &layers)]);
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&fifo, &image).unwrap());
        let output = rig.importer(&["-name", "app", "fifo"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
    assert_eq!(rig.everything(), before);
}

#[test]
fn known_compressed_layer_is_only_hashed() {
    let rig = Rig::start();
    // The compressed layer must be large, too, so the data must be incompressible.
    let noise = |seed: u64| {
        let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let noise = std::iter::successors(Some(seed), next).map(|number| number.to_be_bytes()[0]);
        noise.take(400_000).collect::<Vec<u8>>()
    };
    let large = |name: &str| Tar::new().file(name, noise(name.len() as u64)).file("old", name);
    let mut layers = vec![large("a").end(), large("bb").end(), large("ccc").end()];
    let layout = |layers: &[Vec<u8>]| {
        let mut layout = Layout::default();
        let pack = |layer: &Vec<u8>| layout.blob(&format!("{LAYER}+gzip"), &gzip(layer));
        let parts: Vec<_> = layers.iter().map(pack).collect();
        let said = layout.blob(CONFIG, config(layers).to_string().as_bytes());
        let manifest = layout.manifest(&said, &parts);
        layout.list(manifest);
        layout
    };
    let import = |layout: &Layout, words: &[&str]| {
        fs::write(rig.path("image.tar"), layout.archive()).unwrap();
        let words = [&["-q=false", "-name", "app", "image.tar"], words].concat();
        let output = rig.importer(&words).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let cache = rig.path(".cache/deploy-from-docker");
    let file = |layer: &[u8]| {
        let start = crate::image::digest(&gzip(layer))["sha256:".len()..].to_owned();
        let names = list(&cache.join("image-layers"));
        let name = names.iter().find(|name| name.starts_with(&start)).expect("the layer is cached");
        cache.join("image-layers").join(name)
    };
    let year = Duration::from_secs(31_536_000);
    let age = |path: &Path| {
        fs::File::open(path).unwrap().set_modified(SystemTime::now() - year).unwrap();
    };
    let is_old =
        |path: &Path| fs::metadata(path).unwrap().modified().unwrap().elapsed().unwrap() > year / 2;

    assert!(import(&layout(&layers), &["-no-cache"]).0);
    assert!(!cache.exists());
    let (_, said) = import(&layout(&layers), &[]);
    assert!(said.contains("3 layers, 3 reused, 0 bytes sent"), "{said}");
    let known: Vec<_> = layers.iter().map(|layer| file(layer)).collect();
    for path in &known {
        age(path);
    }
    let (_, said) = import(&layout(&layers), &[]);
    assert!(said.contains("3 layers, 3 reused, 0 bytes sent"), "{said}");
    let old: Vec<bool> = known.iter().map(|path| is_old(path)).collect();
    assert_eq!(old, [false; 3], "the cached listings were not used");
    // If a later layer removes a file of a known layer, the known layer must be packed again. So
    // the program reads this layer again.
    layers.push(Tar::new().file("last", noise(9)).file(".wh.old", "").end());
    let (good, said) = import(&layout(&layers), &[]);
    assert!(good && said.contains("4 layers, 0 reused"), "{said}");
    file(&layers[3]);
    // The result is the same as without known layers.
    rig.alone(&["-into", "into", "-name", "app"], &layout(&layers).archive()).good();
    let (_, found) = rig.configuration("app");
    assert_eq!(found.len(), 4);
    for (component, version) in found {
        let bytes = fs::read(rig.path("into").join(format!("{component}.tar.gz"))).unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), version, "{component}");
    }

    // A cached listing does not apply to a different layer with the same name.
    let before = rig.everything();
    let mut packed = gzip(&layers[1]);
    let mut damaged = layout(&layers);
    let middle = packed.len() / 2;
    packed[middle] ^= 1;
    damaged.replace(&gzip(&layers[1]), &packed);
    let (good, said) = import(&damaged, &[]);
    assert!(!good && said.contains("is damaged: its sha256 is"), "{said}");
    assert_eq!(rig.everything(), before);

    // An image is still found if one of its layers is also stored under another layer's name.
    let (seen, mut other) = (gzip(&layers[0]), gzip(&layers[0]));
    other[4] ^= 1; // The time in the gzip header.
    let mut astray = Layout::default();
    astray.blob(LAYER, &seen);
    astray.replace(&seen, &other);
    let part = astray.blob(&format!("{LAYER}+gzip"), &other);
    let said = astray.blob(CONFIG, config(&layers[..1]).to_string().as_bytes());
    let manifest = astray.manifest(&said, &[part]);
    astray.list(manifest);
    let (good, said) = import(&astray, &["-n"]);
    assert!(good && said.contains("1 layer,"), "{said}");

    // An unusable cache is an error if the user named it. Otherwise the program ignores an unusable
    // cache.
    let (good, said) = import(&layout(&layers), &["-cache-dir", "image.tar"]);
    assert!(
        !good && said.contains("cache directory image.tar") && said.contains("-no-cache"),
        "{said}"
    );
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "").unwrap();
    assert!(import(&layout(&layers), &[]).0);
    assert!(import(&layout(&layers), &["-cache-dir", "elsewhere"]).0);
    assert!(rig.path("elsewhere/image-layers").join(known[0].file_name().unwrap()).exists());
    // The user is root but has the home directory of another user. The program does not change this
    // directory.
    if rustix::process::geteuid().is_root() {
        fs::remove_file(&cache).unwrap();
        fs::remove_dir(rig.path(".cache")).unwrap();
        std::os::unix::fs::chown(rig.path("."), Some(12_345), None).unwrap();
        assert!(import(&layout(&layers), &[]).0);
        assert!(!rig.path(".cache").exists());
    }
}
