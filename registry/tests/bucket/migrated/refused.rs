//! Tests what `migrate` refuses, with the exact texts.

use std::fs;

use deploy_store::Digest;
use deploy_testing::{server_bucket, server_catalogue};

use super::{Move, flags, ok, refusal, start, stop};
use crate::bench::{archive, change, upload};

#[tokio::test(flavor = "multi_thread")]
async fn running_registry_and_used_places_are_refused() {
    let Some(mut moving) = Move::new(10).await else { return };
    moving.rig.run();
    let pid = moving.rig.pid();
    let text = refusal(&moving.forward().output().unwrap(), 6);
    assert_eq!(
        text,
        format!(
            "migrate reg: the directory is in use by another process (pid {pid}): a registry runs; \
             stop it first; nothing was changed"
        )
    );
    moving.rig.stop("-TERM");

    // A catalogue and a bucket that another registry uses.
    let (other, away) = (moving.rig.path("other"), moving.rig.path("away"));
    let [used, unused] = [&other, &away].map(|dir| server_catalogue(dir).unwrap());
    let [taken, free] = [&other, &away].map(|dir| server_bucket(dir).unwrap());
    let mut place = moving.at_server(&other);
    place.catalogue = Some(used.clone());
    place.bucket.as_mut().unwrap().address = taken.parse().unwrap();
    let registry = start(place).await.unwrap();
    let digest = upload(&registry, &archive("other")).await;
    let (code, v1) = ("code".parse().unwrap(), "v1".parse().unwrap());
    registry.add_version(&code, &v1, digest, &change()).await.unwrap();
    let to = |catalogue: &str, bucket: &str| {
        moving.command(&["-dir", "reg", "-to", catalogue, "-bucket", bucket]).output().unwrap()
    };
    let text = refusal(&to(&used, &free), 6);
    assert_eq!(
        text,
        "open catalogue on the database server: another registry uses this catalogue; stop that \
         registry first; nothing was changed"
    );
    stop(registry).await;
    let text = refusal(&to(&used, &free), 6);
    assert_eq!(
        text,
        "migrate reg: the catalogue on the database server is not empty; give a new database with \
         -to; nothing was changed"
    );
    let shown = |bucket: &str| {
        bucket.parse::<deploy_registry::bucket::BucketAddress>().unwrap().to_string()
    };
    let text = refusal(&to(&unused, &taken), 6);
    assert_eq!(
        text,
        format!(
            "bucket {}: the bucket belongs to another catalogue; give the bucket of this \
             catalogue, or another prefix; nothing was changed",
            shown(&taken)
        )
    );
    // None of this keeps the registry from its own place, or from a migration.
    stop(start(&*moving.dir()).await.unwrap()).await;
    ok(moving.forward());

    let back = |dir: &str| refusal(&moving.back(dir).output().unwrap(), 6);
    assert_eq!(
        back("reg"),
        "migrate reg: the directory has the catalogue of the time before the registry moved to the \
         server; move catalogue.db, catalogue.db-wal and catalogue.db-shm away, or give an empty \
         directory with -dir; nothing was changed"
    );
    fs::create_dir_all(moving.rig.path("full/files")).unwrap();
    fs::write(moving.rig.path("full/files/x"), "").unwrap();
    assert_eq!(
        back("full"),
        "migrate full: the directory has files; give an empty directory with -dir; nothing was \
         changed"
    );
    assert_eq!(
        back("other"),
        "migrate other: the directory belongs to another registry; give an empty directory with \
         -dir; nothing was changed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_returns_to_its_old_directory() {
    let Some(mut moving) = Move::new(30).await else { return };
    ok(moving.forward());
    moving.rig.flags = flags(&["-catalogue", &moving.catalogue, "-bucket", &moving.bucket]);
    moving.rig.run();
    moving.rig.ok("delver -name c3 -version v2 -force");
    moving.rig.stop("-TERM");
    for name in fs::read_dir(moving.dir()).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        if name.starts_with("catalogue.db") {
            fs::rename(moving.dir().join(&name), moving.rig.path(&name)).unwrap();
        }
    }
    let report = ok(moving.back("reg"));
    assert!(!report.contains("host_key"), "{report}");
    for name in ["catalogue.id", "moved.json"] {
        assert!(!moving.dir().join(name).exists(), "{name}");
    }
    moving.rig.flags = flags(&["-catalogue", "", "-bucket", ""]);
    moving.rig.run();
    assert!(!moving.rig.ok("showcomp -name c3").contains("v2"));
    assert!(moving.rig.ok("verify").contains(" 0 damaged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_file_stops_the_migration_and_a_missing_one_is_reported() {
    let Some(mut moving) = Move::new(10).await else { return };
    let file = |text: &str| {
        let digest = Digest::of(&archive(text));
        (moving.dir().join("files").join(digest.to_string()), digest)
    };
    let ((bad, digest), (gone, missing)) = (file("blob 3"), file("blob 4"));
    fs::write(&bad, archive("blob X")).unwrap();
    let text = refusal(&moving.forward().output().unwrap(), 8);
    assert_eq!(
        text,
        format!(
            "migrate: reg/files/{digest} is damaged: its bytes do not match its name; start the \
             registry, run verify, which moves the file to the quarantine, and then migrate again; \
             the registry has not moved"
        )
    );
    fs::remove_file(gone).unwrap();
    moving.rig.run();
    let verified = moving.rig.ssh("op", "me", &["verify"]);
    assert_eq!(verified.status.code(), Some(8));
    moving.rig.stop("-TERM");
    let output = moving.forward().output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", crate::rig::both(&output));
    let report = String::from_utf8(output.stdout).unwrap();
    let line = format!("missing         files/{missing}: did not exist before; upload");
    assert!(report.contains(&line), "{report}");
    moving.rig.flags = flags(&["-catalogue", &moving.catalogue, "-bucket", &moving.bucket]);
    moving.rig.run();
    let found = moving.rig.ssh("op", "me", &["verify"]);
    let text = String::from_utf8(found.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("damaged ")).count(), 1, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("missing ")).count(), 1, "{text}");
}
