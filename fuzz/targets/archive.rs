//! Any bytes as an archive: refused or read, and what is read survives its index.
#![no_main]

use deploy_store::{Limits, check_archive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { entries: 10_000, bytes: 64 << 20, ..Limits::STANDARD };
    // Either answer is right; a panic, a hang or an endless allocation is not.
    let _ = check_archive(bytes, limits);
});
