//! Draws the progress bar on the last line of this process's terminal. While a bar may be shown,
//! the process writes to stderr only through this module, so that a message replaces the whole bar.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use super::Told;

/// The number of columns of the bar on the terminal; 0 without a bar. The variable is global,
/// because the process has one terminal.
static DRAWN: Mutex<usize> = Mutex::new(0);

/// Shows a message or bar on stderr.
pub fn show(told: Told) {
    // An error is ignored, because there is no better place to report a failed write to stderr.
    let _ = match told {
        Told::Line(line) => Stderr.write_all((line + "\n").as_bytes()),
        Told::Bar(text) => {
            let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
            if text.is_empty() && *drawn == 0 {
                // A message has already replaced the bar.
                return;
            }
            io::stderr().write_all(over(&text, &mut drawn).as_bytes())
        }
    };
}

/// Returns the characters that replace a bar of `drawn` columns with the bar `text`, and sets
/// `drawn` to the width of the new bar. The characters leave the cursor at the start of the line.
/// Blanks erase the rest of the old bar, because blanks, unlike escape sequences, work on every
/// terminal.
pub fn over(text: &str, drawn: &mut usize) -> String {
    let columns = text.chars().count();
    let blanks = drawn.saturating_sub(columns);
    *drawn = columns;
    if columns == 0 {
        return format!("{:blanks$}\r", "");
    }
    format!("{text}{:blanks$}\r", "")
}

/// The number of columns of the terminal on stderr; `None` if stderr is not a terminal.
pub(super) fn columns() -> Option<usize> {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stderr).ok();
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    Some(if columns == 0 { super::COLUMNS } else { columns })
}

/// Standard error. Text that is written to this value replaces the bar.
#[derive(Debug, Clone, Copy)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
        if *drawn > 0 {
            io::stderr().write_all(over("", &mut drawn).as_bytes())?;
        }
        io::stderr().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_bar_erases_a_longer_one() {
        let mut drawn = 0;
        assert_eq!(over("abcdef", &mut drawn), "abcdef\r");
        assert_eq!(over("xyz", &mut drawn), "xyz   \r");
        assert_eq!(over("", &mut drawn), "   \r");
        assert_eq!(over("", &mut drawn), "\r");
    }
}
