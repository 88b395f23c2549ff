//! Tests `verify -repair` with and without a running agent. Damaged files are quarantined, and
//! every needed file that can be extracted or downloaded again is restored.

use std::fs;
use std::path::PathBuf;

use crate::bench::{Agent, Bench, says};
use deploy_testing::eventually;
use serde_json::Value;

/// The paths of all objects with these contents.
fn objects(bench: &Bench, contents: &str) -> Vec<PathBuf> {
    let fans = fs::read_dir(bench.path("a1/objects")).unwrap().map(|fan| fan.unwrap().path());
    let all = fans.flat_map(|fan| fs::read_dir(fan).unwrap().map(|it| it.unwrap().path()));
    all.filter(|path| fs::read_to_string(path).is_ok_and(|text| text == contents)).collect()
}

/// Damages a file, but keeps its modification time, its mode and its size.
fn rot(path: &PathBuf) {
    let meta = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    let file = fs::File::open(path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(meta.modified().unwrap())).unwrap();
}

fn findings(json: &Value) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = json["findings"].as_array().unwrap().iter();
    all.map(|it| (text(&it["path"]), text(&it["done"]), it["mended"].as_bool().unwrap())).collect()
}

fn index(bench: &Bench, layer: usize) -> PathBuf {
    bench.path(&format!("a1/layers/{}", bench.state().unwrap().layers()[layer].digest))
}

#[test]
fn running_agent_downloads_damaged_layers_again() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let status = || says(&bench, &["status", "--json"], 0, "").json();
    // The test waits for the spare, because the build of a spare would also find the damage.
    eventually("the spare is ready", || status()["spare"]["ready"] == true);
    says(&bench, &["verify", "--repair"], 0, "all sound");
    let [object] = &objects(&bench, "one\n")[..] else { panic!("not exactly one object") };
    rot(object);
    fs::write(index(&bench, 0), "nonsense").unwrap();
    says(&bench, &["verify"], 8, "-repair repairs it now");
    let json = says(&bench, &["verify", "--repair", "--json"], 0, "").json();
    let found = findings(&json);
    assert_eq!(found.len(), 2, "{json:#}");
    let name = object.file_name().unwrap().to_str().unwrap();
    let layer = bench.state().unwrap().layers()[0].digest;
    for (aside, (path, done, mended)) in
        [name.to_owned(), format!("layer-{layer}")].iter().zip(&found)
    {
        let want = format!("quarantined as quarantine/{aside}; fetched and extracted again");
        assert_eq!((done, mended), (&want, &true), "{path}");
        assert!(bench.path("a1/quarantine").join(aside).exists());
    }
    assert_eq!(fs::read_to_string(bench.path("a1/quarantine").join(name)).unwrap(), "nne\n");
    assert_eq!(json["repaired"], true);
    says(&bench, &["verify"], 0, "all sound");
    says(&bench, &["status"], 0, "quarantine     2 files were damaged");
    eventually("another spare is ready", || status()["spare"]["ready"] == true);
    // Without this object, the cache lacks a file of a layer.
    fs::remove_file(object).unwrap();
    let text = says(&bench, &["verify", "--repair"], 0, "1 finding, 1 repaired").out;
    assert!(text.contains("1 of its files is not in the cache: fetched and extracted"), "{text}");
    says(&bench, &["gc"], 0, "it was damaged");
    says(&bench, &["verify"], 0, "all sound");
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched");
    agent.stop();
}

#[test]
fn modified_root_is_reported_and_not_changed() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &["-link", "copy", "-no-spare"]);
    says(&bench, &["sync"], 0, "");
    let id = bench.state().unwrap().id();
    let conf = bench.path(&format!("a1/unpacked/{id}/conf"));
    fs::write(&conf, "of the service").unwrap();
    let text = says(&bench, &["verify", "--repair"], 8, "1 finding, 0 repaired").out;
    assert!(text.contains("conf was altered: not repaired\n"), "{text}");
    assert_eq!(fs::read_to_string(&conf).unwrap(), "of the service");
    // The advice names only commands that repair the damage.
    for words in [&["verify"][..], &["verify", "-repair"]] {
        let text = says(&bench, words, 8, "\n1 in roots: ").out;
        assert!(!text.contains("-repair repairs"), "{text}");
        assert!(
            text.contains("remove a damaged root (rm -r), and run deploy-agent sync"),
            "{text}"
        );
    }
    fs::remove_dir_all(bench.path(&format!("a1/unpacked/{id}"))).unwrap();
    says(&bench, &["sync"], 0, "");
    assert_eq!(fs::read_to_string(&conf).unwrap(), "one\n");
    says(&bench, &["verify"], 0, "all sound");
    agent.stop();
}

#[test]
fn repair_without_an_agent_uses_kept_blobs_or_a_named_registry() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&["-keep-blobs", "-link", "copy"]).0, Some(0));
    let damage = || {
        let [object] = &objects(&bench, "one\n")[..] else { panic!("not exactly one object") };
        rot(object);
        object.clone()
    };
    damage();
    let json = says(&bench, &["verify", "--repair", "--json"], 0, "").json();
    assert!(findings(&json)[0].1.contains("extracted again from a cached blob"), "{json:#}");

    let layers = bench.state().unwrap().layers().to_vec();
    let blob = bench.path(&format!("a1/cache/{}", layers[1].digest));
    fs::write(&blob, "damaged").unwrap();
    damage();
    let json = says(&bench, &["verify", "--repair", "--json"], 8, "").json();
    let found = findings(&json);
    assert_eq!(found.len(), 2, "{json:#}");
    assert!(
        found.iter().all(|(_, done, mended)| done.contains("no registry was named") && !mended)
    );
    let aside = bench.path(&format!("a1/quarantine/blob-{}", layers[1].digest));
    assert_eq!(fs::read_to_string(aside).unwrap(), "damaged");
    // Quarantined files count as missing.
    says(&bench, &["verify"], 8, "1 of its files is not in the cache");
    let (addr, fp) = (bench.registry.addr.clone(), bench.registry.fingerprint.clone());
    let registry = ["verify", "--repair", "-addr", &addr, "-fp", &fp, "-key", "srv"];
    says(&bench, &registry, 0, "fetched and extracted again");
    says(&bench, &["verify"], 0, "all sound");
    assert!(blob.exists(), "the blob was not restored");
}

#[test]
fn unused_damaged_object_is_quarantined_but_not_restored() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    let first = index(&bench, 1);
    bench.bump("v02", "two\n");
    assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    bench.bump("v03", "three\n");
    assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    let [object] = &objects(&bench, "one\n")[..] else { panic!("not exactly one object") };
    rot(object);
    let text = says(&bench, &["verify", "--repair"], 0, "nothing needs the file").out;
    assert!(!first.exists(), "the index lists an object that is missing: {text}");
    says(&bench, &["verify"], 0, "all sound");
}

#[test]
fn object_that_stays_damaged_in_a_root_counts_as_not_repaired() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &["-link", "hardlink", "-no-spare"]);
    says(&bench, &["sync"], 0, "");
    let id = bench.state().unwrap().id();
    let file = bench.path(&format!("a1/unpacked/{id}/conf"));
    // The test changes only the contents of the file, and not its modification time, as a failing
    // disk would.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "nne\n").unwrap();
    let times = fs::FileTimes::new().set_modified(modified);
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    let text = says(&bench, &["verify", "--repair"], 8, "1 finding, 0 repaired").out;
    let want = "fetched and extracted again; 1 file in published roots is a hardlink to the file, \
                and stays damaged";
    assert!(text.contains(want), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "nne\n", "a root was changed");
    // The next root has the right contents.
    bench.add_version("code", "v02", "bin", "run again");
    bench.operator("ssh", &["bumpconf -name project1 -component code"], "");
    says(&bench, &["sync"], 0, "switched");
    let id = bench.state().unwrap().id();
    let next = bench.path(&format!("a1/unpacked/{id}/conf"));
    assert_eq!(fs::read_to_string(next).unwrap(), "one\n");
    agent.stop();
}
