//! Reads any bytes as sftp packets: as requests of operators or agents, and as answers to a client.
//! The registry must answer every readable request with a readable packet that has the number of
//! the request. On its disk, the registry may change only uploads. A client must read or refuse
//! every answer.
#![no_main]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use deploy_registry::registry::{Registry, Settings};
use deploy_registry::ssh::exchange;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use russh_sftp::protocol::Packet;
use tokio::runtime::Runtime;

/// A registry with one blob, made once for all inputs.
struct Ground {
    runtime: Runtime,
    registry: Arc<Registry>,
    dir: PathBuf,
    blob: String,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("deploy-fuzz-sftp-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let settings = Settings { max_upload: 8 << 20, min_free: 0, ..Settings::default() };
        let registry = runtime.block_on(Registry::open(&dir, settings)).expect("a registry");
        let mut blob = registry.blobs().stage().expect("room");
        blob.write_at(0, b"the bytes of a blob").expect("room");
        let digest = blob.finish().expect("room");
        registry.blobs().publish(digest).expect("room");
        Ground { runtime, registry: Arc::new(registry), dir, blob: digest.to_string() }
    })
}

fn names(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).expect("a list").map(|entry| entry.expect("an entry").path()).collect()
}

/// Generates packets: plausible requests in any order.
fn packets(data: &[u8], blob: &str) -> Vec<u8> {
    let mut bytes = Unstructured::new(data);
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let Ok(packet) = packet(&mut bytes, blob) else { break };
        out.extend(u32::try_from(packet.len()).expect("short").to_be_bytes());
        out.extend(packet);
    }
    out
}

fn packet(bytes: &mut Unstructured<'_>, blob: &str) -> Result<Vec<u8>> {
    let paths = [
        "",
        "/",
        ".",
        "..",
        "configs",
        "files",
        "/configs/p.json",
        "../../etc/passwd",
        "a\0b",
        "files/..",
        "/files/../uploads/x",
        "a\x1b]0;x\x07",
        "configs/*.json",
        "catalogue.db",
    ];
    let offsets = [0, 1, 5, 4096, 1 << 20, 1 << 40, 1 << 62, i64::MAX as u64, u64::MAX];
    let kind = *bytes.choose(&[
        1, 3, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 8, 9, 10, 11, 11, 12, 12, 13, 14, 15, 16, 17, 18, 19,
        20, 200, 101, 0, 255,
    ])?;
    let mut out = vec![kind];
    out.extend(bytes.arbitrary::<u32>()?.to_be_bytes());
    let put = |out: &mut Vec<u8>, text: &[u8]| {
        out.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
        out.extend(text);
    };
    let path = match bytes.int_in_range(0..=3)? {
        0 => format!("/files/{blob}"),
        _ => (*bytes.choose(&paths)?).to_owned(),
    };
    let handle = bytes.int_in_range(0..=4_u8)?.to_string();
    match kind {
        1 => {}
        3 => {
            put(&mut out, path.as_bytes());
            let flags = bytes.choose(&[1, 2, 0x1a, 0x0a, 0x3f, 0, u32::MAX])?;
            out.extend(flags.to_be_bytes());
            out.extend(0_u32.to_be_bytes());
        }
        5 | 6 => {
            put(&mut out, handle.as_bytes());
            out.extend(bytes.choose(&offsets)?.to_be_bytes());
            if kind == 5 {
                out.extend(bytes.choose(&[0, 1, 19, 4096, 1 << 18, u32::MAX])?.to_be_bytes());
            } else {
                put(&mut out, &vec![b'w'; bytes.int_in_range(0..=300)?]);
            }
        }
        4 | 8 | 12 => put(&mut out, handle.as_bytes()),
        10 => {
            put(&mut out, handle.as_bytes());
            out.extend(1_u32.to_be_bytes());
            out.extend(bytes.choose(&offsets)?.to_be_bytes());
        }
        200 => {
            let names = ["limits@openssh.com", "fsync@openssh.com", "hardlink@openssh.com", "x"];
            put(&mut out, bytes.choose(&names)?.as_bytes());
            put(&mut out, handle.as_bytes());
        }
        _ => {
            put(&mut out, path.as_bytes());
            if matches!(kind, 18 | 20) {
                put(&mut out, paths[7].as_bytes());
            }
            out.extend(0_u32.to_be_bytes());
        }
    }
    // Sometimes the packet is truncated or has additional bytes.
    match bytes.int_in_range(0..=31)? {
        0 => out.truncate(bytes.int_in_range(1..=out.len())?),
        1 => out.push(7),
        _ => {}
    }
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let ground = ground();
    let bytes = if mode & 2 == 0 { packets(data, &ground.blob) } else { data.to_vec() };
    let operator = mode & 1 == 0;
    let before = (names(&ground.dir), names(&ground.dir.join("files")));
    let answers = ground.runtime.block_on(exchange(&ground.registry, operator, &bytes));
    assert_eq!(before, (names(&ground.dir), names(&ground.dir.join("files"))));
    let uploads = names(&ground.dir.join("uploads"));
    assert!(operator || uploads.is_empty(), "an agent has made an upload");
    for upload in uploads {
        fs::remove_file(upload).expect("removal");
    }
    let mut rest = &bytes[..];
    for answer in answers {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let request = &rest[4..4 + length];
        rest = &rest[4 + length..];
        let said = u32::from_be_bytes([answer[0], answer[1], answer[2], answer[3]]) as usize;
        assert_eq!(said, answer.len() - 4, "an answer has a wrong length field");
        assert!(said <= 256 << 10, "an answer is longer than clients accept");
        if request[0] != 1 {
            assert_eq!(request[1..5], answer[5..9], "an answer has the number of another request");
        }
        let mut answer = answer.slice(4..);
        assert!(Packet::try_from(&mut answer).is_ok(), "an answer cannot be read");
    }
    // A client reads the same bytes as an answer of a registry.
    let _ = Packet::try_from(&mut Bytes::copy_from_slice(data));
});
