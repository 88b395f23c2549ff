//! Shows the registry's standard error while a command runs. Bars of progress appear on this
//! program's own terminal, and lines are printed as they arrive.

use deploy_cli::progress::{self, Form};

use crate::complain;

/// Maximum number of bytes of an unfinished line. A longer line is printed in pieces.
const MAX_LINE: usize = 8 << 10;

/// Prints the registry's standard error.
pub struct Told {
    /// The number of columns for a bar; `None` discards bars.
    columns: Option<usize>,
    /// The unfinished line.
    rest: Vec<u8>,
    has_bar: bool,
}

impl Told {
    /// A printer that shows progress in this form.
    pub fn new(form: Form) -> Self {
        let columns = if let Form::Bar(columns) = form { Some(columns) } else { None };
        Self { columns, rest: Vec::new(), has_bar: false }
    }

    /// Takes more bytes. A carriage return ends a bar, and the next bar replaces this bar. A
    /// newline ends a line.
    pub fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\r' => self.bar(),
                b'\n' => self.line(true),
                byte => {
                    self.rest.push(byte);
                    if self.rest.len() > MAX_LINE {
                        self.line(false);
                    }
                }
            }
        }
    }

    /// Prints the unfinished line, and removes the bar.
    pub fn end(&mut self) {
        self.line(false);
        if self.has_bar {
            progress::show(progress::Told::Bar(String::new()));
        }
    }

    fn bar(&mut self) {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned();
        let Some(columns) = self.columns else { return };
        // Control characters are replaced, so that the registry's text cannot control the terminal
        // or leave its line.
        let plain = text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c });
        self.has_bar = true;
        progress::show(progress::Told::Bar(plain.take(columns.saturating_sub(1)).collect()));
    }

    fn line(&mut self, ended: bool) {
        let mut line = std::mem::take(&mut self.rest);
        if ended {
            line.push(b'\n');
        }
        if !line.is_empty() {
            complain(&String::from_utf8_lossy(&line));
        }
    }
}
