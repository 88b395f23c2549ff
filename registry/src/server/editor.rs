//! A line editor for the prompt: bytes from a terminal in, bytes for it and finished
//! lines out. No IO.

use deploy_wire::command::VERBS;

/// The prompt.
pub const PROMPT: &[u8] = b"\x1b[31m> \x1b[0m";
const PROMPT_WIDTH: usize = 2;
/// Longest line, in characters.
const MAX_LINE: usize = 64 << 10;
/// Lines that are remembered.
const MAX_HISTORY: usize = 100;

/// What came of a byte.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing to do yet.
    None,
    /// A line was submitted.
    Line(String),
    /// The user wants to leave.
    Leave,
}

/// The editor's state.
#[derive(Debug)]
pub struct Editor {
    line: Vec<char>,
    cursor: usize,
    history: Vec<String>,
    /// Place in the history, and the line that was being typed before going there.
    recalled: Option<(usize, Vec<char>)>,
    output: Vec<u8>,
    columns: usize,
    /// Bytes of a character or an escape sequence that is not complete.
    pending: Vec<u8>,
    after_return: bool,
}

impl Editor {
    /// An editor for a terminal of so many columns.
    pub fn new(columns: u32) -> Self {
        Self {
            line: Vec::new(),
            cursor: 0,
            history: Vec::new(),
            recalled: None,
            output: Vec::new(),
            columns: usable(columns),
            pending: Vec::new(),
            after_return: false,
        }
    }

    /// The terminal has so many columns now.
    pub fn resize(&mut self, columns: u32) {
        self.columns = usable(columns);
    }

    /// What the terminal is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes in one byte.
    pub fn feed(&mut self, byte: u8) -> Event {
        // CR LF is one end of line, as LF alone is.
        let after_return = std::mem::take(&mut self.after_return);
        if byte == b'\n' && after_return {
            return Event::None;
        }
        if !self.pending.is_empty() {
            self.pending.push(byte);
            self.try_pending();
            return Event::None;
        }
        match byte {
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                return self.submit();
            }
            0x04 if self.line.is_empty() => {
                self.output.extend_from_slice(b"\r\n");
                return Event::Leave;
            }
            0x03 => {
                self.line.clear();
                self.cursor = 0;
                self.recalled = None;
                self.output.extend_from_slice(b"^C\r\n");
                self.output.extend_from_slice(PROMPT);
            }
            0x01 => self.move_to(0),
            0x05 => self.move_to(self.line.len()),
            0x02 => self.move_to(self.cursor.saturating_sub(1)),
            0x06 => self.move_to((self.cursor + 1).min(self.line.len())),
            0x04 => self.remove(self.cursor..(self.cursor + 1).min(self.line.len())),
            0x0b => self.remove(self.cursor..self.line.len()),
            0x0c => {
                self.output.extend_from_slice(b"\x1b[2J\x1b[H");
                self.output.extend_from_slice(PROMPT);
                self.redraw_from(0, 0);
            }
            0x0e => self.recall_newer(),
            0x10 => self.recall_older(),
            0x15 => self.remove(0..self.cursor),
            0x17 => self.remove(self.word_start()..self.cursor),
            0x08 | 0x7f => self.backspace(),
            b'\t' => self.complete(),
            0x1b | 0x80.. => {
                self.pending.push(byte);
            }
            0x20..0x7f => self.insert(char::from(byte)),
            _ => {}
        }
        Event::None
    }

    fn submit(&mut self) -> Event {
        let line: String = self.line.drain(..).collect();
        self.cursor = 0;
        self.recalled = None;
        self.output.extend_from_slice(b"\r\n");
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > MAX_HISTORY {
                self.history.remove(0);
            }
        }
        Event::Line(line)
    }

    /// Looks whether the pending bytes are a whole character or key.
    fn try_pending(&mut self) {
        if self.pending[0] != 0x1b {
            match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    let c = text.chars().next();
                    self.pending.clear();
                    if let Some(c) = c.filter(|c| !c.is_control()) {
                        self.insert(c);
                    }
                }
                Err(err) if err.error_len().is_some() => self.pending.clear(),
                Err(_) => {}
            }
            return;
        }
        let known = match self.pending.as_slice() {
            b"\x1b[" | b"\x1bO" => return,
            [0x1b, b'[' | b'O', rest @ ..] => {
                // Parameters go on until a letter or a tilde; none has many.
                let last = rest[rest.len() - 1];
                if !(last.is_ascii_alphabetic() || last == b'~') && rest.len() < 16 {
                    return;
                }
                rest.to_vec()
            }
            _ => Vec::new(),
        };
        self.pending.clear();
        match known.as_slice() {
            b"A" => self.recall_older(),
            b"B" => self.recall_newer(),
            b"C" => self.move_to((self.cursor + 1).min(self.line.len())),
            b"D" => self.move_to(self.cursor.saturating_sub(1)),
            b"H" | b"1~" | b"7~" => self.move_to(0),
            b"F" | b"4~" | b"8~" => self.move_to(self.line.len()),
            b"3~" => self.remove(self.cursor..(self.cursor + 1).min(self.line.len())),
            _ => {}
        }
    }

    fn insert(&mut self, c: char) {
        if self.line.len() >= MAX_LINE {
            return;
        }
        let before = self.cursor;
        self.line.insert(self.cursor, c);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            self.output.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            self.redraw_from(before, before);
        }
    }

    fn backspace(&mut self) {
        if self.cursor == 0 {
            return;
        }
        if self.cursor == self.line.len() && !self.at_line_start() {
            self.line.pop();
            self.cursor -= 1;
            self.output.extend_from_slice(b"\x1b[D \x1b[D");
        } else {
            self.remove(self.cursor - 1..self.cursor);
        }
    }

    fn remove(&mut self, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (from, cursor) = (range.start, self.cursor);
        self.line.drain(range);
        self.cursor = from;
        self.redraw_from(from, cursor);
    }

    fn replace(&mut self, line: Vec<char>) {
        let cursor = self.cursor;
        self.line = line;
        self.cursor = self.line.len();
        self.redraw_from(0, cursor);
    }

    fn recall_older(&mut self) {
        let (at, typed) = match self.recalled.take() {
            Some((at, typed)) => (at, typed),
            None => (self.history.len(), self.line.clone()),
        };
        let older = at.saturating_sub(1);
        if let Some(line) = self.history.get(older) {
            let line = line.chars().collect();
            self.recalled = Some((older, typed));
            self.replace(line);
        }
    }

    fn recall_newer(&mut self) {
        let Some((at, typed)) = self.recalled.take() else { return };
        match self.history.get(at + 1) {
            Some(line) => {
                let line = line.chars().collect();
                self.recalled = Some((at + 1, typed));
                self.replace(line);
            }
            None => self.replace(typed),
        }
    }

    /// Completes a verb, or the flag of one.
    fn complete(&mut self) {
        let typed: String = self.line[..self.cursor].iter().collect();
        let start = typed.rfind(' ').map_or(0, |at| at + 1);
        let word = &typed[start..];
        let verb = typed.split(' ').next().unwrap_or_default();
        let candidates: Vec<String> = if start == 0 {
            let verbs = VERBS.iter().map(|verb| verb.name).chain(["help", "exit"]);
            verbs.filter(|name| name.starts_with(word)).map(str::to_owned).collect()
        } else {
            let flags = VERBS.iter().filter(|known| known.name == verb).flat_map(|v| v.flags);
            let flags = flags.map(|flag| format!("-{}", flag.name));
            flags.filter(|flag| flag.starts_with(word) && !word.is_empty()).collect()
        };
        let Some(common) = common_prefix(&candidates) else { return };
        let rest = common[word.len()..].to_owned();
        let space = if candidates.len() == 1 { " " } else { "" };
        if rest.is_empty() && candidates.len() > 1 {
            let list = format!("\r\n{}\r\n", candidates.join("  "));
            self.output.extend_from_slice(list.as_bytes());
            self.output.extend_from_slice(PROMPT);
            self.redraw_from(0, 0);
            return;
        }
        rest.chars().chain(space.chars()).for_each(|c| self.insert(c));
    }

    fn word_start(&self) -> usize {
        let trimmed = self.line[..self.cursor].iter().rposition(|&c| c != ' ').unwrap_or(0);
        self.line[..trimmed].iter().rposition(|&c| c == ' ').map_or(0, |at| at + 1)
    }

    fn at_line_start(&self) -> bool {
        (PROMPT_WIDTH + self.cursor).is_multiple_of(self.columns)
    }

    fn move_to(&mut self, to: usize) {
        let from = std::mem::replace(&mut self.cursor, to);
        self.jump(from, to);
    }

    /// Draws the line again from character `from`, with the terminal's cursor at
    /// character `at` now.
    fn redraw_from(&mut self, from: usize, at: usize) {
        self.jump(at, from);
        self.output.extend_from_slice(b"\x1b[J");
        let text: String = self.line[from..].iter().collect();
        self.output.extend_from_slice(text.as_bytes());
        if from < self.line.len() && (PROMPT_WIDTH + self.line.len()).is_multiple_of(self.columns) {
            // The terminal waits at the edge: over it, to be where we count.
            self.output.extend_from_slice(b" \r");
        }
        self.jump(self.line.len(), self.cursor);
    }

    /// Moves the terminal's cursor between characters, over the line's rows.
    fn jump(&mut self, from: usize, to: usize) {
        let place = |at: usize| {
            let at = PROMPT_WIDTH + at;
            (at / self.columns, at % self.columns)
        };
        let ((from_row, from_column), (to_row, to_column)) = (place(from), place(to));
        let moves = [
            (from_row.saturating_sub(to_row), 'A'),
            (to_row.saturating_sub(from_row), 'B'),
            (to_column.saturating_sub(from_column), 'C'),
            (from_column.saturating_sub(to_column), 'D'),
        ];
        for (n, letter) in moves.into_iter().filter(|(n, _)| *n > 0) {
            let sequence =
                if n == 1 { format!("\x1b[{letter}") } else { format!("\x1b[{n}{letter}") };
            self.output.extend_from_slice(sequence.as_bytes());
        }
    }
}

/// A width to count with, whatever a terminal says.
fn usable(columns: u32) -> usize {
    match usize::try_from(columns) {
        Ok(0) | Err(_) => 80,
        Ok(columns) => columns.max(10),
    }
}

fn common_prefix(words: &[String]) -> Option<&str> {
    let first = words.first()?;
    let length = words.iter().fold(first.len(), |length, word| {
        let same = first.bytes().zip(word.bytes()).take_while(|(one, other)| one == other).count();
        length.min(same)
    });
    Some(&first[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types `keys` and returns the lines that were submitted.
    fn typed(keys: &str) -> Vec<String> {
        let mut editor = Editor::new(80);
        let mut lines = Vec::new();
        for &byte in keys.as_bytes() {
            match editor.feed(byte) {
                Event::None => {}
                Event::Line(line) => lines.push(line),
                Event::Leave => lines.push("LEFT".to_owned()),
            }
        }
        lines
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, want) in [
            ("abc\r", vec!["abc"]),
            ("abc\nd\r\n", vec!["abc", "d"]),
            ("abd\x1b[Dc\r", vec!["abcd"]),
            ("ab\x7fc\r", vec!["ac"]),
            ("abc\x01x\x05y\r", vec!["xabcy"]),
            ("one two\x17x\r", vec!["one x"]),
            ("junk\x15ok\r", vec!["ok"]),
            ("junk\x03ok\r", vec!["ok"]),
            ("caf\u{e9}\x7fe\r", vec!["cafe"]),
            ("a\r\x1b[A\x1b[Ab\r", vec!["a", "ab"]),
            ("a\rhalf\x1b[A\x1b[B\r", vec!["a", "half"]),
            ("abc\x1b[H\x1b[3~\r", vec!["bc"]),
            ("\x04", vec!["LEFT"]),
            ("ab\x01\x04\r", vec!["b"]),
            ("showco\t\r", vec!["showco"]),
            ("showcon\t-na\tp\r", vec!["showconf -name p"]),
        ] {
            assert_eq!(typed(keys), want, "{keys:?}");
        }
    }

    #[test]
    fn echo_is_that_of_the_go_tool() {
        let mut editor = Editor::new(80);
        assert_eq!(PROMPT, b"\x1b[31m> \x1b[0m");
        "ab\x7f".bytes().for_each(|byte| assert_eq!(editor.feed(byte), Event::None));
        assert_eq!(editor.take_output(), b"ab\x1b[D \x1b[D");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut editor = Editor::new(10);
        let mut seed = 1_u32;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let keys = [0x1b, b'[', b'A', b'D', 0x7f, b'\t', 0x15, b'x', 0xc3, 0xa9, b' ', b'3'];
            let at = (seed >> 16) as usize;
            let any = seed.to_be_bytes()[0];
            editor.feed(if at.is_multiple_of(5) { any } else { keys[at % keys.len()] });
        }
        assert!(!editor.take_output().is_empty());
    }
}
