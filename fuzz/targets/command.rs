//! Parses any line as a command. The parser must refuse the line, or parse the printed form of the
//! command as the same command. The words must equal those of another splitter, `shlex`, which
//! follows a POSIX shell. If the project's code or `shlex` quotes a word, the splitter must read
//! the word back unchanged.
#![no_main]

use deploy_wire::command::{parse, quote, split};
use libfuzzer_sys::fuzz_target;

/// Whether the line contains syntax that the splitter intentionally reads differently from a
/// shell. The differences concern comments, carriage returns, continued lines, and backslashes in
/// double quotes. In the registry's commands, as in the Go tool, a carriage return is a blank, and
/// a backslash in double quotes always escapes. A shell keeps this backslash before most
/// characters.
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
