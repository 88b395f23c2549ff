//! Any bytes as a configuration: refused, or one whose JSON reads back to itself.
#![no_main]

use deploy_store::Configuration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(configuration) = Configuration::from_json(bytes) else { return };
    let again = Configuration::from_json(&configuration.to_json()).expect("its own JSON");
    assert_eq!(again, configuration);
});
