use super::*;

/// Feeds `input` to the editor, and returns the submitted lines and all output.
fn feed(editor: &mut Editor, mut input: &[u8]) -> (Vec<String>, String) {
    let mut lines = Vec::new();
    loop {
        let (taken, event) = editor.feed(input);
        input = &input[taken..];
        match event {
            Some(Event::Line(line)) => {
                lines.push(line);
                editor.prompt();
            }
            Some(Event::End) => lines.push("END".to_owned()),
            Some(Event::Complete) => editor.replace(0, "done "),
            None => break,
        }
    }
    (lines, String::from_utf8(editor.take_output()).unwrap())
}

fn lines_of(input: &[u8]) -> Vec<String> {
    feed(&mut Editor::new(80, true), input).0
}

#[test]
fn output_equals_the_output_of_the_go_tool() {
    let mut editor = Editor::new(80, true);
    editor.prompt();
    let (_, out) = feed(&mut editor, b"ab\x7fc\r");
    assert_eq!(out, "\x1b[31m> \x1b[0mab\x1b[D\x1b[Jc\r\n\x1b[31m> \x1b[0m");
    let mut editor = Editor::new(80, false);
    editor.prompt();
    assert_eq!(feed(&mut editor, b"a").1, "> a");
}

#[test]
fn cr_and_lf_submit_and_crlf_submits_once() {
    assert_eq!(lines_of(b"a\rb\nc\r\nd\r"), ["a", "b", "c", "d"]);
    assert_eq!(lines_of(b"a\r\r\n\n"), ["a", "", ""]);
}

#[test]
fn editing_keys_work() {
    for (input, want) in [
        (&b"bc\x01a\r"[..], "abc"),
        (b"ac\x1b[Db\r", "abc"),
        (b"ac\x1b[D\x1b[D\x1b[C\x06\x02b\r", "abc"),
        (b"bc\x1b[Ha\x1b[Fd\r", "abcd"),
        (b"bc\x1b[1~a\x1b[4~d\r", "abcd"),
        (b"abx\x1b[D\x04c\r", "abc"),
        (b"abx\x1b[D\x1b[3~c\r", "abc"),
        (b"xyz\x15abc\r", "abc"),
        (b"abcxyz\x1b[D\x1b[D\x1b[D\x0b\r", "abc"),
        (b"ab cd  \x17\x17x\r", "x"),
        (b"showconf -name x\x17y\r", "showconf -name y"),
        (b"bad\x03good\r", "good"),
        (b"\x7f\x08a\r", "a"),
        (b"ab cd\x1bb\x1b[1;5Dx\x1bf\x1b[1;5Cy\r", "xab cdy"),
        (b"ab cd ef\x01\x1bd\x1bf\x1b\x7fx\r", " x ef"),
        (b"a\x1b[99;5Zb\x1bxc\x00\x1f\r", "abc"),
        ("aéö\x7f漢\r".as_bytes(), "aé漢"),
        (b"a\xffb\xc3c\xe6\xbcd\r", "abcd"),
    ] {
        assert_eq!(lines_of(input), [want], "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn control_d_ends_the_prompt_only_on_an_empty_line() {
    assert_eq!(lines_of(b"a\x04\x04"), Vec::<String>::new());
    assert_eq!(lines_of(b"a\x7f\x04"), ["END"]);
}

#[test]
fn history_keeps_the_line_being_typed() {
    let up = b"one\rtwo\rtwo\r\x1b[A\x1b[A\r";
    assert_eq!(lines_of(up), ["one", "two", "two", "one"]);
    let back = b"one\rpart\x1b[A\x1b[A\x1b[Bial\r";
    assert_eq!(lines_of(back), ["one", "partial"]);
    assert_eq!(lines_of(b"one\r\x10\x10x\r"), ["one", "onex"]);
    let mut editor = Editor::new(80, true);
    for n in 0..MAX_HISTORY + 50 {
        feed(&mut editor, format!("{n}\r").as_bytes());
    }
    assert_eq!(editor.history.len(), MAX_HISTORY);
}

#[test]
fn tab_completes_the_word() {
    assert_eq!(lines_of(b"he\tx\r"), ["done x"]);
    let mut editor = Editor::new(20, true);
    editor.prompt();
    feed(&mut editor, "é add".as_bytes());
    editor.replace(3, "addver -");
    assert_eq!(editor.before_cursor(), "é addver -");
    editor.replace(99, "x");
    assert_eq!(editor.before_cursor(), "é addver -x");
    let words = ["a", "bb", "漢字", "ddddd", "e"].map(str::to_owned);
    editor.take_output();
    editor.show(&words);
    let shown = String::from_utf8(editor.take_output()).unwrap();
    assert!(shown.starts_with("\r\na      ddddd\r\nbb     e\r\n漢字\r\n\x1b[31m> "), "{shown:?}");
    editor.show(&vec!["w".to_owned(); MAX_SHOWN + 3]);
    assert!(String::from_utf8(editor.take_output()).unwrap().contains("\r\nand 3 more\r\n"));
}

#[test]
fn lines_are_capped() {
    let lines = lines_of(&[&[b'x'; MAX_LINE + 10][..], b"\r"].concat());
    assert_eq!(lines[0].len(), MAX_LINE);
}

/// Interprets the output of the editor as a terminal with `width` columns, and returns the rows of
/// the screen.
fn screen(width: usize, out: &str) -> Vec<String> {
    let mut rows = vec![vec![' '; width]; 8];
    let (mut row, mut column) = (0, 0);
    let mut chars = out.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                chars.next();
                match chars.by_ref().find(char::is_ascii_alphabetic) {
                    Some('A') => row -= 1,
                    Some('B') => row += 1,
                    Some('C') => column += 1,
                    Some('D') => column -= 1,
                    Some('J') => {
                        rows[row][column..].fill(' ');
                        rows[row + 1..].iter_mut().for_each(|row| row.fill(' '));
                    }
                    _ => {}
                }
            }
            c => {
                // A terminal moves to the next row only when a character does not fit into the full
                // row.
                if column + super::width(c) > width {
                    (row, column) = (row + 1, 0);
                }
                rows[row][column] = c;
                column += super::width(c);
            }
        }
    }
    rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn long_lines_wrap_and_are_edited_across_rows() {
    let mut editor = Editor::new(10, true);
    editor.prompt();
    let (_, out) = feed(&mut editor, b"abcdefghijklmnop\x01X\x05Y\x02\x02\x7f");
    let rows = screen(10, &out);
    assert_eq!(rows[..3], ["> Xabcdefg", "hijklmnpY", ""], "{out:?}");
    let (_, more) = feed(&mut editor, b"\x15z");
    let rows = screen(10, &format!("{out}{more}"));
    assert_eq!(rows[..3], ["> zpY", "", ""], "{more:?}");
}

#[test]
fn wide_characters_take_two_cells_and_stay_whole() {
    let mut editor = Editor::new(9, true);
    editor.prompt();
    let (_, out) = feed(&mut editor, "漢字漢字x\x02\x02y".as_bytes());
    let rows = screen(9, &out);
    assert_eq!(rows[..2], ["> 漢 字 漢 y", "字 x"], "{out:?}");
}

#[test]
fn resize_redraws_the_line() {
    let mut editor = Editor::new(10, true);
    editor.prompt();
    feed(&mut editor, b"abcdefghijklmnopqrstu");
    editor.resize(7);
    // There are 23 cells before the cursor, so the cursor is now in the fourth row.
    let out = String::from_utf8(editor.take_output()).unwrap();
    assert!(out.starts_with("\x1b[A\x1b[A\x1b[A\r\x1b[J\x1b[31m> "), "{out:?}");
    let rows = screen(7, out.trim_start_matches("\x1b[A"));
    assert_eq!(rows[..4], ["> abcde", "fghijkl", "mnopqrs", "tu"], "{out:?}");
}

const OLD: &[u8] = b"showconf -name web\rshowcomp -name code\rgc -n\r";

#[test]
fn search_finds_old_lines() {
    for (keys, want) in [
        (&b"\x12show\r"[..], "showcomp -name code"),
        (b"\x12show\x12\r", "showconf -name web"),
        (b"\x12show\x12\x12\r", "showconf -name web"),
        (b"\x12web\x05 -v\r", "showconf -name web -v"),
        (b"\x12webx\x7f\r", "showconf -name web"),
        (b"\x12zzz\r", ""),
        // Here, the user cancels the search.
        (b"part\x12web\x07ial\r", "partial"),
        (b"part\x12web\x03ial\r", "partial"),
        (b"part\x12web\x7f\x7f\x7f\x07ial\r", "partial"),
        // An escape or an arrow key ends the search at the match.
        (b"\x12web\x1bX\r", "showconf -name Xweb"),
        (b"\x12web\x1b[DX\r", "showconf -nameX web"),
        (b"\x12gc\x1b[A\r", "showcomp -name code"),
        (b"\x12gc\x1b[A\x1b[B\x1b[Bnew\r", "new"),
        // Here, the user repeats the last search.
        (b"\x12code\x07\x12\x12\r", "showcomp -name code"),
        ("\x12é\x07\x12web\r".as_bytes(), "showconf -name web"),
    ] {
        let lines = lines_of(&[OLD, keys].concat());
        assert_eq!(lines[3], want, "{:?}", String::from_utf8_lossy(keys));
    }
}

#[test]
fn prompt_shows_the_search_pattern_and_the_found_line() {
    for (keys, want) in [
        (&b"\x12"[..], "(reverse-i-search)`': "),
        (b"\x12co", "(reverse-i-search)`co': showcomp -name code"),
        (b"\x12co\x12", "(reverse-i-search)`co': showconf -name web"),
        (b"\x12cow", "(failed reverse-i-search)`cow': showcomp -name code"),
        (b"\x12co\x07", "> "),
        (b"\x12co\x1b", "> showcomp -name code"),
    ] {
        for width in [80, 13] {
            let mut editor = Editor::new(width, false);
            editor.prompt();
            feed(&mut editor, OLD);
            editor.prompt();
            let width = usize::try_from(width).unwrap();
            let rows = screen(width, &format!("\r{}", feed(&mut editor, keys).1)).concat();
            let plain = |text: &str| text.replace(' ', "");
            assert_eq!(plain(&rows), plain(want), "{:?}", String::from_utf8_lossy(keys));
        }
    }
}
