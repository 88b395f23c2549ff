//! Draws the prompt and the line: computes the cell of each character, and moves the cursor.

use crate::ssh::shell::editor::{Editor, PROMPT_WIDTH, width};

impl Editor {
    /// Writes the prompt and the line. Before the call, the terminal's cursor must be at the start
    /// of a row.
    pub(super) fn draw(&mut self) {
        if let Some(search) = &self.search {
            let prompt = search.prompt();
            self.at = 0;
            self.put(&prompt);
        } else {
            self.out.extend(self.prompt.as_bytes());
            self.at = PROMPT_WIDTH;
        }
        let line = self.line.clone();
        self.put(&line);
        self.move_to(self.cell(self.cursor));
    }

    /// The number of cells between the start of the prompt and the line's character `position`.
    pub(super) fn cell(&self, position: usize) -> usize {
        let widths = self.line[..position].iter().map(|&c| width(c));
        widths.fold(self.start(), |at, width| at + self.gap(at, width) + width)
    }

    /// The number of empty cells before a character that does not fit into the row.
    pub(super) fn gap(&self, at: usize, width: usize) -> usize {
        let left = self.width - at % self.width;
        if width > left { left } else { 0 }
    }

    /// Writes characters. After a full row, a space moves the terminal's cursor to the next row.
    /// The terminal then treats both rows as one line when its width changes.
    pub(super) fn put(&mut self, text: &[char]) {
        for &c in text {
            let width = width(c);
            for _ in 0..self.gap(self.at, width) {
                self.cells(" ", 1);
            }
            self.cells(c.encode_utf8(&mut [0; 4]), width);
        }
    }

    pub(super) fn cells(&mut self, text: &str, width: usize) {
        self.out.extend(text.as_bytes());
        self.at += width;
        if width > 0 && self.at.is_multiple_of(self.width) {
            self.out.extend(b" \r");
        }
    }

    /// Moves the terminal's cursor to a cell.
    pub(super) fn move_to(&mut self, cell: usize) {
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
