//! Parses any line as a command. The line is refused, or the printed form of the command is parsed
//! as the same command. The words are those of a POSIX shell, by another splitter, and the printed
//! form for pasting means the same to a shell.
#![no_main]

use deploy_wire::command::{parse, quote, split};
use libfuzzer_sys::fuzz_target;

/// Lines that a shell reads differently, on purpose. These are comments; a carriage return, which
/// is a blank here as in the Go tool; a line that continues in the next line; and a backslash in
/// double quotes: a shell keeps it before most characters, while here it always escapes, as in the
/// Go tool.
fn means_another(line: &str) -> bool {
    line.contains(['#', '\r'])
        || line.contains("\\\n")
        || (line.contains('"') && line.contains('\\'))
}

fuzz_target!(|line: &str| {
    let Ok(words) = split(line) else { return };
    if !means_another(line) {
        assert_eq!(shlex::split(line).as_ref(), Some(&words), "{line:?}");
    }
    for word in &words {
        assert_eq!(split(&quote(word)).as_deref(), Ok(&[word.clone()][..]), "{word:?}");
        if let Ok(quoted) = shlex::try_quote(word) {
            assert_eq!(split(&quoted).as_deref(), Ok(&[word.clone()][..]), "{quoted}");
        }
    }
    let Ok(command) = parse(&words) else { return };
    let printed = command.to_string();
    let again = split(&printed).and_then(|words| parse(&words));
    assert_eq!(again.as_ref(), Ok(&command), "{printed}");
});
