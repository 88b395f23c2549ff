//! Aligns tables like Go's `text/tabwriter` with the settings of the Go tool. Each cell is padded
//! to the width of the widest cell in its column plus three spaces.

/// Aligns `rows` of cells, and returns one line for each row.
pub fn table(rows: &[Vec<String>]) -> String {
    const PADDING: usize = 3;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + PADDING
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        text.push('\n');
    }
    text
}

/// Like [`table`], without spaces at the end of a line.
pub fn list(rows: &[Vec<String>]) -> String {
    table(rows).lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_three_spaces_wider_than_their_widest_cell() {
        let rows = [["code", "v01"], ["c", "v0001"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "code   v01     \nc      v0001   \n");
        assert_eq!(list(&rows), "code   v01\nc      v0001\n");
        assert_eq!((table(&[]), list(&[])), (String::new(), String::new()));
    }
}
