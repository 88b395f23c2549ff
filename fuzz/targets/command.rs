//! Any line as a command: refused, or a command whose printed form is itself.
#![no_main]

use deploy_wire::command::{parse, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let Ok(command) = split(line).and_then(|words| parse(&words)) else { return };
    let printed = command.to_string();
    let again = split(&printed).and_then(|words| parse(&words));
    assert_eq!(again.as_ref(), Ok(&command), "{printed}");
});
