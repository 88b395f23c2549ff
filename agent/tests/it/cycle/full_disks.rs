//! Tests cycles on full disks, and with `-min-free`.

use std::fs;

use crate::source::Source;
use deploy_agent::records::agent_report::link_word;
use deploy_store::{Digest, Size};

use super::Bench;

#[tokio::test]
async fn agent_loses_nothing_on_a_full_disk_and_retries() {
    let Some(source) = Source::start() else { return };
    let Some(small) = crate::source::small_disk() else { return };
    let mut bench = Bench::with(source, small.path().join("agent"));
    let small_layer = bench.source.blob(&[("a", "a")]);
    let first = bench.source.configure(&[("code", "v1", small_layer)]);
    bench.switches(&first).await;
    let noise: String = (0..2_000_000_u64).map(|n| (n * n * n).to_string()).collect();
    let big = bench.source.blob(&[("big", &noise)]);
    let second = bench.source.configure(&[("code", "v2", big)]);
    let refused = bench.cycle().await.unwrap_err().to_string();
    assert!(refused.contains("No space left on device"), "{refused}");
    assert_eq!(refused.lines().count(), 1);
    assert!(!bench.root(&second).exists() && bench.root(&first).join("a").exists());
    assert_eq!(fs::read(&bench.agent.state).unwrap(), first.to_json());

    let ballast = small.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    let third = bench.source.configure(&[("code", "v3", bench.source.blob(&[("b", "b")]))]);
    let refused = bench.cycle().await.unwrap_err().to_string();
    assert!(refused.contains("No space left on device"), "{refused}");
    drop(file);
    fs::remove_file(ballast).unwrap();
    bench.switches(&third).await;
}

#[tokio::test]
async fn gc_works_on_a_completely_full_disk() {
    let Some(source) = Source::start() else { return };
    let Some(small) = crate::source::small_disk() else { return };
    let mut bench = Bench::with(source, small.path().join("agent"));
    bench.agent.keep_roots = 9;
    for seed in 0..3 {
        let blob = bench.source.blob(&[("noise", &noise(seed, 2 << 20))]);
        let configuration = bench.source.configure(&[("code", &format!("v{seed}"), blob)]);
        bench.switches(&configuration).await;
    }
    let link = bench.agent.store.link_mode();
    bench.agent.report.update(|report| report.link = Some(link_word(link).to_owned()));
    let Bench { source: _source, agent, .. } = bench;
    let (dir, state) = (agent.dir.clone(), agent.state.clone());
    drop(agent);
    let mut ballast = fs::File::create(small.path().join("ballast")).unwrap();
    while std::io::Write::write(&mut ballast, &[0; 4096]).is_ok_and(|written| written > 0) {}
    let gc = |more: &str| {
        let mut gc = std::process::Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
        gc.args(["gc", "--json", "-keep-roots", "1", more, "-dir"]).arg(&dir);
        let output = gc.arg("-state").arg(&state).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (told, done) = (gc("--dry-run"), gc("--dry-run=false"));
    assert_eq!((told["free_bytes"].as_u64(), &told["bytes"]), (Some(0), &done["bytes"]));
    let (freed, free) = (done["bytes"].as_u64().unwrap(), done["free_bytes"].as_u64().unwrap());
    assert!(freed >= 4 << 20 && free >= freed, "{freed} bytes freed, {free} are free");
}

/// Returns contents that compress badly: `bytes` bytes of digests in hexadecimal.
fn noise(seed: u32, bytes: usize) -> String {
    let count = u32::try_from(bytes / 64).unwrap();
    (0..count).map(|n| Digest::of(&(seed * count + n).to_le_bytes()).to_string()).collect()
}

#[tokio::test]
async fn min_free_removes_oldest_roots_and_never_the_current_root() {
    const MIB: usize = 1 << 20;
    let Some(source) = Source::start() else { return };
    let Some(small) = crate::source::small_disk() else { return };
    let mut bench = Bench::with(source, small.path().join("agent"));
    bench.agent.keep_roots = 9;
    bench.agent.min_free = 6 * MIB as u64;
    let free = |bench: &Bench| bench.agent.store.free_bytes().unwrap();
    let mut all = Vec::new();
    for seed in 0..6 {
        let blob = bench.source.blob(&[("noise", &noise(seed, 3 * MIB)), ("same", "same")]);
        let configuration = bench.source.configure(&[("code", &format!("v{seed}"), blob)]);
        bench.switches(&configuration).await;
        all.push(configuration);
        assert!(free(&bench) >= 6 * MIB as u64, "after v{seed}: {}", free(&bench));
    }
    let there: Vec<bool> = all.iter().map(|it| bench.root(it).exists()).collect();
    let (gone, kept): (Vec<&bool>, Vec<&bool>) = there.iter().partition(|there| !**there);
    assert!(gone.len() >= 3 && kept.len() >= 2, "{there:?}");
    assert!(there.is_sorted(), "a younger root was removed before an older root: {there:?}");

    // A deploy that cannot fit fails before any download, and removes nothing.
    bench.agent.min_free = 15 * MIB as u64;
    let blob = bench.source.blob(&[("noise", &noise(9, 3 * MIB))]);
    bench.source.configure(&[("code", "v9", blob)]);
    let refused = bench.cycle().await.unwrap_err().to_string();
    let want = format!(
        "not enough room for the download of 1 layer: it needs {}, {} are free, and -min-free keeps {} free",
        Size(fs::metadata(bench.source.path(&format!("files/{blob}"))).unwrap().len()),
        Size(free(&bench)),
        Size(15 * MIB as u64)
    );
    assert!(refused.starts_with(&want), "{refused}");
    let after: Vec<bool> = all.iter().map(|it| bench.root(it).exists()).collect();
    assert_eq!(after, there);
    assert_eq!(fs::read_dir(small.path().join("agent/partial")).unwrap().count(), 0);

    // With a smaller `-min-free`, the deploy fits. The agent removes the replaced root last.
    bench.agent.min_free = 10 * MIB as u64;
    let last = bench.source.configure(&[("code", "v9", blob)]);
    bench.switches(&last).await;
    assert!(bench.root(&last).join("noise").exists());
    assert!(all.iter().all(|it| !bench.root(it).exists()));
    let mut found = Vec::new();
    deploy_store::verify(&bench.agent.dir, |finding| found.push(finding)).unwrap();
    assert_eq!(found, []);
}

#[tokio::test]
async fn error_on_a_full_disk_keeps_the_deployed_root_and_says_how_to_free_room() {
    const MIB: usize = 1 << 20;
    let Some(source) = Source::start() else { return };
    let Some(small) = crate::source::small_disk() else { return };
    let mut bench = Bench::with(source, small.path().join("agent"));
    let blob = bench.source.blob(&[("a", "one")]);
    let first = bench.source.configure(&[("code", "v1", blob)]);
    bench.switches(&first).await;
    let seen = rustix::fs::statvfs(small.path()).unwrap();
    let whole = usize::try_from(seen.f_blocks * seen.f_frsize).unwrap();
    let blob = bench.source.blob(&[("noise", &noise(10, 3 * whole.max(MIB)))]);
    bench.source.configure(&[("code", "v2", blob)]);
    let full = bench.cycle().await.unwrap_err().to_string();
    for part in [
        "No space left on device",
        "; the deployed root stays unchanged; ",
        " are free, and ",
        " MiB remain to be downloaded; to free room: deploy-agent gc removes",
        "-keep-roots 1",
    ] {
        assert!(full.contains(part), "no {part:?} in {full}");
    }
    assert_eq!(fs::read_to_string(bench.root(&first).join("a")).unwrap(), "one");
}
