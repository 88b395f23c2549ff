//! Implements `^R`, which searches the history backwards for a pattern, as in readline. Each
//! further `^R` finds an older line, and Enter submits the found line. `^G` and `^C` restore the
//! original line. Printable characters and Backspace change the pattern. Any other key ends the
//! search, and then has its usual effect on the found line.

use crate::ssh::shell::editor::{Editor, MAX_LINE, width};

/// An active search.
#[derive(Debug)]
pub(super) struct Search {
    pattern: Vec<char>,
    /// The position of the shown line in the history, counted from the end; 0 is the original line.
    at: usize,
    /// Whether the last step of the search found no line.
    failed: bool,
    /// The line, the cursor and the position in the history before the search.
    before: (Vec<char>, usize, usize),
}

impl Search {
    /// The prompt during the search.
    pub(super) fn prompt(&self) -> Vec<char> {
        let failed = if self.failed { "failed " } else { "" };
        let pattern: String = self.pattern.iter().collect();
        format!("({failed}reverse-i-search)`{pattern}': ").chars().collect()
    }
}

impl Editor {
    /// Applies a byte to the active search and returns true. Returns false if no search is active,
    /// or if the byte does not belong to the search. Such a byte ends the search, and then has its
    /// usual effect.
    pub(super) fn search_takes(&mut self, byte: u8) -> bool {
        if self.search.is_none() {
            return false;
        }
        match byte {
            0x12 => self.search_older(),
            0x03 | 0x07 => self.end_search(Found::Given),
            0x08 | 0x7f => self.search_less(),
            0x20..=0x7e => self.search_more(byte as char),
            _ => {
                self.end_search(Found::Kept);
                return false;
            }
        }
        true
    }

    pub(super) fn search(&mut self) {
        let before = (self.line.clone(), self.cursor, self.shown);
        self.search = Some(Search { pattern: Vec::new(), at: 0, failed: false, before });
        self.redraw();
    }

    /// Adds a character to the pattern.
    pub(super) fn search_more(&mut self, c: char) {
        let Some(search) = &mut self.search else { return };
        if search.pattern.len() < MAX_LINE && !c.is_control() {
            search.pattern.push(c);
            let from = search.at.max(1);
            self.find(from);
        }
    }

    fn search_less(&mut self) {
        let Some(search) = &mut self.search else { return };
        search.pattern.pop();
        if search.pattern.is_empty() {
            (search.at, search.failed) = (0, false);
            (self.line, self.cursor) = (search.before.0.clone(), search.before.1);
            self.redraw();
        } else {
            self.find(1);
        }
    }

    fn search_older(&mut self) {
        let Some(search) = &mut self.search else { return };
        if search.pattern.is_empty() {
            search.pattern.clone_from(&self.sought);
        }
        let from = search.at + 1;
        if !search.pattern.is_empty() {
            self.find(from);
        }
    }

    /// Shows the newest line that has the pattern. The search begins at the position `from` of the
    /// history, counted from the end. The last line has the position 1.
    fn find(&mut self, from: usize) {
        let Some(search) = &mut self.search else { return };
        let length = search.pattern.len();
        let place = |line: &[char]| line.windows(length).rposition(|part| part == search.pattern);
        let found = (from..=self.history.len()).find_map(|n| {
            let line = &self.history[self.history.len() - n];
            // The search skips a line that equals the shown line.
            let is_new = n == search.at || search.at == 0 || *line != self.line;
            Some((n, place(line)?)).filter(|_| is_new)
        });
        search.failed = found.is_none();
        if let Some((n, at)) = found {
            search.at = n;
            self.line = self.history[self.history.len() - n].clone();
            self.cursor = at;
        } else {
            self.ring();
        }
        self.redraw();
    }

    /// Ends the search, if one is active.
    pub(super) fn end_search(&mut self, found: Found) {
        let Some(search) = self.search.take() else { return };
        let (line, cursor, shown) = search.before;
        if found == Found::Given {
            (self.line, self.cursor) = (line, cursor);
        } else if search.at > 0 {
            if shown == 0 {
                self.partial = line;
            }
            self.shown = search.at;
        }
        self.sought = search.pattern;
        self.redraw();
    }

    /// Redraws the prompt and the line in place.
    fn redraw(&mut self) {
        self.move_to(0);
        self.out.extend(b"\x1b[J");
        self.draw();
    }

    /// The length of the prompt, in cells.
    pub(super) fn start(&self) -> usize {
        let Some(search) = &self.search else { return super::PROMPT_WIDTH };
        let widths = search.prompt().into_iter().map(width);
        widths.fold(0, |at, width| at + self.gap(at, width) + width)
    }
}

/// The line that the editor shows after a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The found line.
    Kept,
    /// The original line.
    Given,
}
