//! Connects to a database server over TLS, with a private certificate authority (CA).

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use deploy_registry::registry::{Place, Registry, Settings};
use deploy_testing::DatabaseServer;

use crate::bench::{archive, change, upload};

/// Runs `openssl`.
fn openssl(dir: &Path, line: &str) {
    let words = line.split_whitespace();
    let output = Command::new("openssl").args(words).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the CAs `ca` and `other`, and a certificate of `ca` for the address 127.0.0.1.
fn make_certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for ca in ["ca", "other"] {
        openssl(dir, &format!("req -x509 {key} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    }
    openssl(
        dir,
        &format!(
            "req -x509 {key} -subj /CN=database -CA ca.pem -CAkey ca.key -keyout server.key \
             -out server.pem -addext subjectAltName=IP:127.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE"
        ),
    );
}

/// Starts the server again, with TLS. Without TLS, the server then accepts no client over TCP.
fn switch_to_tls(server: &DatabaseServer, certificates: &Path, port: u16) {
    let data = server.data();
    let owner = fs::metadata(&data).unwrap();
    for name in ["server.pem", "server.key"] {
        let path = data.join(name);
        fs::copy(certificates.join(name), &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhostssl all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    server.run(&[
        "ALTER SYSTEM SET ssl = on",
        "ALTER SYSTEM SET ssl_cert_file = 'server.pem'",
        "ALTER SYSTEM SET ssl_key_file = 'server.key'",
        "ALTER SYSTEM SET listen_addresses = '127.0.0.1'",
        &format!("ALTER SYSTEM SET port = {port}"),
    ]);
    server.stop_at_once();
    server.start();
}

#[tokio::test]
async fn server_is_verified_with_a_private_authority() {
    let dir = tempfile::tempdir().unwrap();
    // The user of the server needs access to its directory, and to no other.
    let data = tempfile::tempdir().unwrap();
    let Some(server) = DatabaseServer::start_in(data.path()) else { return };
    make_certificates(dir.path());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    switch_to_tls(&server, dir.path(), port);
    let open = async |host: &str, mode: &str, ca: &str| {
        let ca = dir.path().join(ca);
        let ca = ca.display();
        let url =
            format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}&sslrootcert={ca}");
        let place = Place { catalogue: Some(url), ..Place::from(&*dir.path().join("reg")) };
        Registry::open(place, Settings::default()).await
    };
    // The CA did not sign the certificate, or the certificate is for another name, or the client
    // wants no TLS.
    for (host, mode, ca, why) in [
        ("127.0.0.1", "verify-full", "other.pem", "invalid peer certificate"),
        ("localhost", "verify-full", "ca.pem", "invalid peer certificate"),
        ("127.0.0.1", "disable", "ca.pem", "no pg_hba.conf entry"),
    ] {
        let refused = open(host, mode, ca).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{host} {mode} {ca}: {refused}");
        assert!(refused.starts_with("open catalogue on the database server: "), "{refused}");
    }
    let registry = open("127.0.0.1", "verify-full", "ca.pem").await.unwrap();
    let name = "code".parse().unwrap();
    let digest = upload(&registry, &archive("v1")).await;
    registry.add_version(&name, &"v1".parse().unwrap(), digest, &change()).await.unwrap();
    let count = "SELECT COUNT(*) FILTER (WHERE ssl) > 1, COUNT(*) FILTER (WHERE NOT ssl) \
                 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'deploy-registry'";
    assert_eq!(server.run(&[count]), "t|0");
    registry.catalog.close().await;
}
