//! Implements the prompt's line editor, which turns the bytes of a terminal into lines, and into
//! bytes for the terminal. The editor is pure: it depends on no connection and no command. `search`
//! implements `^R`.

mod draw;
mod search;

use std::collections::VecDeque;

use search::{Found, Search};
use unicode_width::UnicodeWidthChar as _;

/// Maximum length of a line, in characters. Without a terminal, the limit counts bytes.
pub const MAX_LINE: usize = 4096;
/// Maximum number of lines in the history.
pub const MAX_HISTORY: usize = 100;
/// The prompt: a red `>` and a space.
pub const PROMPT: &str = "\x1b[31m> \x1b[0m";
/// The prompt for a terminal without colours.
pub const PLAIN_PROMPT: &str = "> ";
/// Maximum number of completions that are shown.
pub const MAX_SHOWN: usize = 200;
const PROMPT_WIDTH: usize = 2;
const DEFAULT_WIDTH: usize = 80;
const MAX_ESCAPE: usize = 16;

/// An action of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The user submitted a line.
    Line(String),
    /// The user wants to complete the word before the cursor.
    Complete,
    /// The user leaves.
    End,
}

/// The editor, with the line that the user edits.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    width: usize,
    line: Vec<char>,
    cursor: usize,
    /// Position of the terminal's cursor, in cells from the start of the prompt.
    at: usize,
    history: VecDeque<Vec<char>>,
    /// The position of the shown line in the history, counted from the end; 0 is the new line.
    shown: usize,
    /// The text of the new line, while an old line is shown.
    partial: Vec<char>,
    search: Option<Search>,
    /// The last search pattern.
    sought: Vec<char>,
    pending: Vec<u8>,
    /// Whether an escape byte has just ended a search. The byte may come from the Escape key, or
    /// begin an escape sequence.
    escaped: bool,
    after_return: bool,
    out: Vec<u8>,
}

impl Editor {
    /// An editor for a terminal with `columns` columns, with or without colours.
    pub fn new(columns: u32, colours: bool) -> Self {
        Self {
            prompt: if colours { PROMPT } else { PLAIN_PROMPT },
            width: usable(columns),
            line: Vec::new(),
            cursor: 0,
            at: 0,
            history: VecDeque::new(),
            shown: 0,
            partial: Vec::new(),
            search: None,
            sought: Vec::new(),
            pending: Vec::new(),
            escaped: false,
            after_return: false,
            out: Vec::new(),
        }
    }

    /// Redraws the line for a terminal that is now `columns` wide. Most terminals have already
    /// wrapped the line to the new width.
    pub fn resize(&mut self, columns: u32) {
        self.width = usable(columns);
        for _ in 0..self.at / self.width {
            self.out.extend(b"\x1b[A");
        }
        self.out.extend(b"\r\x1b[J");
        self.draw();
    }

    /// Begins a new line.
    pub fn prompt(&mut self) {
        self.line.clear();
        (self.cursor, self.shown, self.search) = (0, 0, None);
        self.draw();
    }

    /// The line up to the cursor.
    pub fn before_cursor(&self) -> String {
        self.line[..self.cursor].iter().collect()
    }

    /// Replaces the text from `start` to the cursor with `text`. `start` counts bytes of the line.
    pub fn replace(&mut self, start: usize, text: &str) {
        let kept =
            self.before_cursor().get(..start).map_or(self.cursor, |kept| kept.chars().count());
        self.delete(kept..self.cursor);
        text.chars().for_each(|c| self.insert(c));
    }

    /// Shows words in columns below the line, and then shows the line again.
    pub fn show(&mut self, words: &[String]) {
        let cursor = self.cursor;
        self.go_to(self.line.len());
        self.out.extend(b"\r\n");
        let shown = &words[..words.len().min(MAX_SHOWN)];
        for row in columns(shown, self.width) {
            self.out.extend(row.as_bytes());
            self.out.extend(b"\r\n");
        }
        if words.len() > shown.len() {
            let more = format!("and {} more\r\n", words.len() - shown.len());
            self.out.extend(more.as_bytes());
        }
        self.cursor = cursor;
        self.draw();
    }

    /// Rings the terminal's bell.
    pub fn ring(&mut self) {
        self.out.push(0x07);
    }

    /// The bytes for the terminal that were added since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes bytes up to the first event. Returns the number of taken bytes, and the event.
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
        if std::mem::take(&mut self.escaped) && !matches!(byte, b'[' | b'O') {
            self.pending.clear();
        }
        if !self.pending.is_empty() || byte == 0x1b || byte >= 0x80 {
            self.escaped = byte == 0x1b && self.pending.is_empty() && self.search.is_some();
            if self.escaped {
                self.end_search(Found::Kept);
            }
            self.sequence(byte);
            return None;
        }
        if self.search_takes(byte) {
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
            b'\t' => return Some(Event::Complete),
            0x0b => self.delete(self.cursor..self.line.len()),
            0x0c => self.clear_screen(),
            0x0e => self.show_history(self.shown.checked_sub(1)),
            0x10 => self.show_history(self.shown.checked_add(1)),
            0x12 => self.search(),
            0x15 => self.delete(0..self.cursor),
            0x17 => self.delete(self.start_of_word()..self.cursor),
            0x20..=0x7e => self.insert(byte as char),
            _ => {}
        }
        None
    }

    /// Takes one more byte of an escape sequence or of a multi-byte character.
    fn sequence(&mut self, byte: u8) {
        if self.pending.first().is_some_and(|&first| first >= 0x80) && byte & 0xc0 != 0x80 {
            // The character is incomplete, and this byte begins another character.
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
            b"\x1bb" | b"\x1b[1;5D" | b"\x1b[1;3D" => self.go_to(self.start_of_word()),
            b"\x1bf" | b"\x1b[1;5C" | b"\x1b[1;3C" => self.go_to(self.end_of_word()),
            b"\x1bd" => self.delete(self.cursor..self.end_of_word()),
            b"\x1b\x7f" => self.delete(self.start_of_word()..self.cursor),
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
        if self.search.is_some() {
            self.search_more(c);
            return;
        }
        if self.line.len() >= MAX_LINE || c.is_control() {
            return;
        }
        self.line.insert(self.cursor, c);
        self.cursor += 1;
        let rest = self.line[self.cursor - 1..].to_vec();
        self.put(&rest);
        self.move_to(self.cell(self.cursor));
    }

    fn delete(&mut self, range: std::ops::Range<usize>) {
        let range = range.start..range.end.min(self.line.len());
        if range.is_empty() {
            return;
        }
        self.go_to(range.start);
        self.line.drain(range);
        self.out.extend(b"\x1b[J");
        let rest = self.line[self.cursor..].to_vec();
        self.put(&rest);
        self.move_to(self.cell(self.cursor));
    }

    fn go_to(&mut self, position: usize) {
        self.cursor = position.min(self.line.len());
        self.move_to(self.cell(self.cursor));
    }

    fn start_of_word(&self) -> usize {
        let before = &self.line[..self.cursor];
        let word_end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        before[..word_end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1)
    }

    fn end_of_word(&self) -> usize {
        let after = self.line[self.cursor..].iter();
        let blanks = after.clone().take_while(|c| c.is_whitespace()).count();
        self.cursor + blanks + after.skip(blanks).take_while(|c| !c.is_whitespace()).count()
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
        self.delete(0..self.line.len());
        self.line = line;
        self.cursor = self.line.len();
        let all = self.line.clone();
        self.put(&all);
    }

    fn clear_screen(&mut self) {
        self.out.extend(b"\x1b[2J\x1b[H");
        self.draw();
    }
}

/// The usable width of a terminal with `columns` columns.
fn usable(columns: u32) -> usize {
    match columns as usize {
        0 => DEFAULT_WIDTH,
        columns => columns.max(PROMPT_WIDTH + 2),
    }
}

/// The number of cells of a character.
fn width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Arranges `words` in rows of at most `cells` cells. The words are ordered from top to bottom in
/// each column.
fn columns(words: &[String], cells: usize) -> Vec<String> {
    let of = |word: &str| word.chars().map(width).sum::<usize>();
    let widest = words.iter().map(|word| of(word)).max().unwrap_or(0) + 2;
    let rows = words.len().div_ceil((cells / widest).max(1));
    let row = |first: usize| {
        let row = words.iter().skip(first).step_by(rows.max(1));
        let padded = row.map(|word| format!("{word}{}", " ".repeat(widest - of(word))));
        padded.collect::<String>().trim_end().to_owned()
    };
    (0..rows).map(row).collect()
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
