//! Parses any text as a file of authorized keys. Each line must have the same meaning alone and
//! among other lines. No label and no error may contain control characters. The options `from` and
//! `no-pty`, put before a line, must not give the key a right that the key lacks without them.
#![no_main]

use std::net::IpAddr;

use deploy_registry::ssh::auth::authorized_keys::{AuthorizedKey, parse};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

const ADDRESSES: [&str; 4] = ["10.0.0.1", "192.168.1.7", "::1", "fd00::9"];

fn allowed(key: &AuthorizedKey) -> Vec<bool> {
    let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * 365 * 50);
    let allowed = |address: &str| key.check(address.parse::<IpAddr>().expect("one"), now).is_ok();
    ADDRESSES.iter().map(|address| allowed(address)).collect()
}

fuzz_target!(|text: &str| {
    let (keys, refused) = parse(text);
    let mut alone = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (mut of_line, refused_line) = parse(line);
        assert!(of_line.len() + refused_line.len() <= 1, "{line:?}");
        assert_eq!(refused_line.is_empty(), !refused.iter().any(|one| one.line == number + 1));
        for reason in refused_line.iter().map(|one| &one.reason) {
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
        if let [key] = &of_line[..] {
            assert!(!key.label().chars().any(char::is_control), "{:?}", key.label());
            let from = format!("from=\"10.0.0.0/8\",no-pty {}", line.trim());
            if let [less] = &parse(&from).0[..] {
                let more = allowed(key);
                assert!(allowed(less).iter().zip(&more).all(|(less, more)| !less || *more));
                assert!(!less.pty, "{line:?}");
            }
        }
        alone.append(&mut of_line);
    }
    assert_eq!(keys, alone);
});
