//! Reads any bytes, with a corrected checksum, as a layer's index. The reader must refuse the
//! bytes, or read an index that encodes to the same bytes. The merge must accept or refuse this
//! index.
#![no_main]

use std::path::Path;

use deploy_store::layer::index::Index;
use deploy_store::root::merge::merge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let bytes = Index::seal([&b"DTINDEX\x02"[..], body].concat());
    let Ok(index) = Index::from_bytes(&bytes, Path::new("fuzzed")) else { return };
    assert_eq!(index.to_bytes(), bytes);
    if let Ok(tree) = merge([&index]) {
        assert!(tree.to_text().lines().count() >= tree.len());
    }
});
