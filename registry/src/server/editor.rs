//! The line editor of the prompt: bytes of a terminal in, lines and bytes for the
//! terminal out. Pure: it knows nothing of connections or commands.

use std::collections::VecDeque;

/// Longest line that can be typed, in characters.
pub const MAX_LINE: usize = 4096;
/// Lines kept for the up arrow.
pub const MAX_HISTORY: usize = 100;
/// What stands before the line: a red `>` and a blank.
pub const PROMPT: &str = "\x1b[31m> \x1b[0m";
const PROMPT_WIDTH: usize = 2;
const DEFAULT_WIDTH: usize = 80;
const MAX_ESCAPE: usize = 16;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A line was submitted.
    Line(String),
    /// The user leaves.
    End,
}

/// A line being edited.
#[derive(Debug)]
pub struct Editor {
    words: Vec<String>,
    width: usize,
    line: Vec<char>,
    cursor: usize,
    /// Where the terminal's cursor is, in cells from the start of the prompt.
    at: usize,
    history: VecDeque<Vec<char>>,
    /// Which line of the history is shown, counted from the end; 0 is the new line.
    shown: usize,
    /// The new line while an old one is shown.
    partial: Vec<char>,
    pending: Vec<u8>,
    after_return: bool,
    out: Vec<u8>,
}

impl Editor {
    /// An editor for a terminal of `columns` that completes `words`.
    pub fn new(columns: u32, words: &[&str]) -> Self {
        let mut editor = Self {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            width: DEFAULT_WIDTH,
            line: Vec::new(),
            cursor: 0,
            at: 0,
            history: VecDeque::new(),
            shown: 0,
            partial: Vec::new(),
            pending: Vec::new(),
            after_return: false,
            out: Vec::new(),
        };
        editor.resize(columns);
        editor
    }

    /// The terminal is now `columns` wide.
    pub fn resize(&mut self, columns: u32) {
        self.width = match columns as usize {
            0 => DEFAULT_WIDTH,
            columns => columns.max(PROMPT_WIDTH + 1),
        };
    }

    /// Begins a new line.
    pub fn prompt(&mut self) {
        self.line.clear();
        (self.cursor, self.shown) = (0, 0);
        self.draw();
    }

    /// The bytes for the terminal since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes in bytes up to the first event; returns how many that were.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        for (taken, &byte) in input.iter().enumerate() {
            if let Some(event) = self.byte(byte) {
                return (taken + 1, Some(event));
            }
        }
        (input.len(), None)
    }

    fn byte(&mut self, byte: u8) -> Option<Event> {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        if !self.pending.is_empty() || byte == 0x1b || byte >= 0x80 {
            self.sequence(byte);
            return None;
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => return Some(self.submit()),
            0x01 => self.go_to(0),
            0x02 => self.go_to(self.cursor.saturating_sub(1)),
            0x03 => self.interrupt(),
            0x04 if self.line.is_empty() => return Some(self.end()),
            0x04 => self.delete(self.cursor..self.cursor + 1),
            0x05 => self.go_to(self.line.len()),
            0x06 => self.go_to(self.cursor + 1),
            0x08 | 0x7f => self.delete(self.cursor.saturating_sub(1)..self.cursor),
            b'\t' => self.complete(),
            0x0b => self.delete(self.cursor..self.line.len()),
            0x0c => self.clear_screen(),
            0x0e => self.show_history(self.shown.checked_sub(1)),
            0x10 => self.show_history(self.shown.checked_add(1)),
            0x15 => self.delete(0..self.cursor),
            0x17 => self.delete(self.start_of_word()..self.cursor),
            0x20..=0x7e => self.insert(byte as char),
            _ => {}
        }
        None
    }

    /// One more byte of an escape sequence or of a multi-byte character.
    fn sequence(&mut self, byte: u8) {
        if self.pending.first().is_some_and(|&first| first >= 0x80) && byte & 0xc0 != 0x80 {
            // The character was cut off; this byte begins something new.
            self.pending.clear();
            self.byte(byte);
            return;
        }
        self.pending.push(byte);
        let pending = self.pending.clone();
        let done = if pending[0] == 0x1b {
            is_complete_escape(&pending) || pending.len() > MAX_ESCAPE
        } else {
            std::str::from_utf8(&pending).map_or_else(|err| err.error_len().is_some(), |_| true)
        };
        if !done {
            return;
        }
        self.pending.clear();
        if pending[0] == 0x1b {
            self.escape(&pending);
        } else if let Some(c) = std::str::from_utf8(&pending).ok().and_then(|s| s.chars().next()) {
            self.insert(c);
        }
    }

    fn escape(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1b[A" | b"\x1bOA" => self.show_history(self.shown.checked_add(1)),
            b"\x1b[B" | b"\x1bOB" => self.show_history(self.shown.checked_sub(1)),
            b"\x1b[C" | b"\x1bOC" => self.go_to(self.cursor + 1),
            b"\x1b[D" | b"\x1bOD" => self.go_to(self.cursor.saturating_sub(1)),
            b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" | b"\x1b[7~" => self.go_to(0),
            b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" | b"\x1b[8~" => self.go_to(self.line.len()),
            b"\x1b[3~" => self.delete(self.cursor..self.cursor + 1),
            _ => {}
        }
    }

    fn submit(&mut self) -> Event {
        self.go_to(self.line.len());
        self.out.extend(b"\r\n");
        let blank = self.line.iter().all(|c| c.is_whitespace());
        if !blank && self.history.back() != Some(&self.line) {
            self.history.push_back(self.line.clone());
            if self.history.len() > MAX_HISTORY {
                self.history.pop_front();
            }
        }
        Event::Line(self.line.drain(..).collect())
    }

    fn end(&mut self) -> Event {
        self.out.extend(b"\r\n");
        Event::End
    }

    fn interrupt(&mut self) {
        self.go_to(self.line.len());
        self.out.extend(b"^C\r\n");
        self.prompt();
    }

    fn insert(&mut self, c: char) {
        if self.line.len() >= MAX_LINE || c.is_control() {
            return;
        }
        self.line.insert(self.cursor, c);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            self.put(&[c]);
        } else {
            let rest = self.line[self.cursor - 1..].to_vec();
            self.put(&rest);
            self.move_to(PROMPT_WIDTH + self.cursor);
        }
    }

    fn delete(&mut self, range: std::ops::Range<usize>) {
        let range = range.start..range.end.min(self.line.len());
        if range.is_empty() {
            return;
        }
        let gone = range.len();
        self.move_to(PROMPT_WIDTH + range.start);
        self.cursor = range.start;
        self.line.drain(range);
        let mut rest = self.line[self.cursor..].to_vec();
        rest.extend(std::iter::repeat_n(' ', gone));
        self.put(&rest);
        self.move_to(PROMPT_WIDTH + self.cursor);
    }

    fn go_to(&mut self, position: usize) {
        self.cursor = position.min(self.line.len());
        self.move_to(PROMPT_WIDTH + self.cursor);
    }

    fn start_of_word(&self) -> usize {
        let before = &self.line[..self.cursor];
        let word_end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        before[..word_end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1)
    }

    fn show_history(&mut self, wanted: Option<usize>) {
        let Some(wanted) = wanted.filter(|&wanted| wanted <= self.history.len()) else { return };
        if self.shown == 0 {
            self.partial.clone_from(&self.line);
        }
        self.shown = wanted;
        let line = match wanted {
            0 => std::mem::take(&mut self.partial),
            n => self.history[self.history.len() - n].clone(),
        };
        self.go_to(0);
        self.delete(0..self.line.len());
        self.line = line;
        self.cursor = self.line.len();
        let all = self.line.clone();
        self.put(&all);
    }

    /// Completes the first word, when the cursor is at its end.
    fn complete(&mut self) {
        let typed: String = self.line[..self.cursor].iter().collect();
        if self.cursor != self.line.len() || typed.contains(char::is_whitespace) {
            return;
        }
        let fitting: Vec<String> =
            self.words.iter().filter(|word| word.starts_with(&typed)).cloned().collect();
        let Some(first) = fitting.first() else { return };
        let common = fitting.iter().fold(first.as_str(), |common, word| {
            let same = common.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count();
            &common[..same]
        });
        if common.len() > typed.len() || fitting.len() == 1 {
            let blank = (fitting.len() == 1).then_some(' ');
            common[typed.len()..].chars().chain(blank).for_each(|c| self.insert(c));
        } else {
            self.out.extend(format!("\r\n{}\r\n", fitting.join("  ")).as_bytes());
            self.draw();
        }
    }

    fn clear_screen(&mut self) {
        self.out.extend(b"\x1b[2J\x1b[H");
        self.draw();
    }

    /// Writes prompt and line where the terminal's cursor is: at the start of a row.
    fn draw(&mut self) {
        self.out.extend(PROMPT.as_bytes());
        self.at = PROMPT_WIDTH;
        let line = self.line.clone();
        self.put(&line);
        self.move_to(PROMPT_WIDTH + self.cursor);
    }

    /// Writes characters, going to the next row by hand where one is full: terminals
    /// differ in when they do.
    fn put(&mut self, text: &[char]) {
        for c in text {
            self.out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            self.at += 1;
            if self.at.is_multiple_of(self.width) {
                self.out.extend(b"\r\n");
            }
        }
    }

    /// Moves the terminal's cursor to a cell.
    fn move_to(&mut self, cell: usize) {
        let (row, column) = (self.at / self.width, self.at % self.width);
        let (to_row, to_column) = (cell / self.width, cell % self.width);
        let mut step = |letter: u8, times: usize| {
            (0..times).for_each(|_| self.out.extend([0x1b, b'[', letter]));
        };
        step(b'A', row.saturating_sub(to_row));
        step(b'B', to_row.saturating_sub(row));
        step(b'D', column.saturating_sub(to_column));
        step(b'C', to_column.saturating_sub(column));
        self.at = cell;
    }
}

fn is_complete_escape(sequence: &[u8]) -> bool {
    match sequence {
        [_] | [_, b'[' | b'O'] => false,
        [_, b'[', .., last] => (0x40..=0x7e).contains(last),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
