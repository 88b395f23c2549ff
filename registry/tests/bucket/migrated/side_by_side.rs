//! Tests that a registry which has moved becomes several registries, and that it returns to a
//! directory only when all of them have stopped.

use std::time::{Duration, Instant};

use deploy_registry::ssh;

use super::{Move, flags, ok, refusal, start, stop};
use crate::rig::{both, wait_until};
use crate::several_programs::{copy_host_key, like};

/// Maximum time until a killed registry counts as away.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn moved_registry_runs_several_times_and_returns_when_all_have_stopped() {
    let Some(mut moving) = Move::new(20).await else { return };
    // The program makes the host key, which clients know from then on.
    moving.rig.run();
    moving.rig.stop("-TERM");
    let report = ok(moving.forward());
    assert!(report.contains("further registries"), "{report}");

    // The first start is on another host. It needs the host key of the registry that has moved.
    let further = moving.rig.path("further");
    let registry = start(moving.at_server(&further)).await.unwrap();
    let refused = ssh::shared_host_key(&further, &registry.catalog).await.unwrap_err().to_string();
    let own = ssh::fingerprint(&ssh::host_key(&moving.dir()).unwrap());
    let why = format!("is missing, but the registries of this catalogue have the host key {own}");
    assert!(refused.contains(&why), "{refused}");
    stop(registry).await;

    let mut second = like(&moving.rig);
    copy_host_key(&moving.rig, &second);
    moving.rig.flags = flags(&["-catalogue", &moving.catalogue, "-bucket", &moving.bucket]);
    second.flags.clone_from(&moving.rig.flags);
    second.run();
    moving.rig.run();
    second.ok("changeconf -name web -component c2 -version v1");
    let document = |rig: &crate::rig::Rig| rig.ok("showconf -name web");
    assert_eq!(document(&moving.rig), document(&second));
    assert!(moving.rig.ok("stat -registries").matches(" running, ").count() == 2);
    assert!(second.ok("verify").contains(" 0 damaged"));

    // While the lock of the catalogue is held, the migration waits for ten seconds.
    let text = refusal(&moving.back("back").output().unwrap(), 6);
    assert_eq!(
        text,
        "open catalogue on the database server: another registry uses this catalogue; stop that \
         registry first; nothing was changed"
    );
    moving.rig.stop("-TERM");
    let address = format!("127.0.0.1:{}", second.port());
    second.stop("-KILL");
    // The database server has released the lock, but the last heartbeat is recent.
    let text = refusal(&moving.back("back").output().unwrap(), 6);
    assert_eq!(
        text,
        format!(
            "migrate: registries use this catalogue, at {address}; stop all registries first, and \
             wait 10 seconds if one was killed; nothing was changed"
        )
    );
    second.run();
    let text = second.ok("showconf -name web");
    second.stop("-TERM");
    let began = Instant::now();
    wait_until("the migration succeeds after the kill", || {
        let output = moving.back("back").output().unwrap();
        assert!(output.status.success() || began.elapsed() < AWAY, "{}", both(&output));
        output.status.success()
    });
    assert!(!second.try_run_under(&[]), "the registry has moved away from the server");

    let back = moving.rig.path("back");
    std::fs::rename(moving.rig.path("reg"), moving.rig.path("old")).unwrap();
    std::fs::rename(back, moving.rig.path("reg")).unwrap();
    std::fs::copy(moving.rig.path("old/host_key"), moving.rig.path("reg/host_key")).unwrap();
    moving.rig.flags = flags(&["-catalogue", "", "-bucket", ""]);
    moving.rig.run();
    assert_eq!(moving.rig.ok("showconf -name web"), text);
    assert!(moving.rig.ok("verify").contains(" 0 damaged"));
}
