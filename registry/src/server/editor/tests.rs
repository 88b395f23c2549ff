use super::*;

/// Feeds `input` and returns the submitted lines and all output.
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
            None => break,
        }
    }
    (lines, String::from_utf8(editor.take_output()).unwrap())
}

fn lines_of(input: &[u8]) -> Vec<String> {
    feed(&mut Editor::new(80, &["addver", "addconf", "help"]), input).0
}

#[test]
fn output_is_that_of_the_go_tool() {
    let mut editor = Editor::new(80, &[]);
    editor.prompt();
    let (_, out) = feed(&mut editor, b"ab\x7fc\r");
    assert_eq!(out, "\x1b[31m> \x1b[0mab\x1b[D \x1b[Dc\r\n\x1b[31m> \x1b[0m");
}

#[test]
fn both_line_ends_submit_and_a_pair_submits_once() {
    assert_eq!(lines_of(b"a\rb\nc\r\nd\r"), ["a", "b", "c", "d"]);
    assert_eq!(lines_of(b"a\r\r\n\n"), ["a", "", ""]);
}

#[test]
fn editing_keys() {
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
        (b"a\x1b[99;5Zb\x1bxc\x00\x1f\r", "abc"),
        ("aéö\x7f漢\r".as_bytes(), "aé漢"),
        (b"a\xffb\xc3c\xe6\xbcd\r", "abcd"),
    ] {
        assert_eq!(lines_of(input), [want], "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn end_of_input_leaves_only_on_an_empty_line() {
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
    let mut editor = Editor::new(80, &[]);
    for n in 0..MAX_HISTORY + 50 {
        feed(&mut editor, format!("{n}\r").as_bytes());
    }
    assert_eq!(editor.history.len(), MAX_HISTORY);
}

#[test]
fn tab_completes_the_verb() {
    assert_eq!(lines_of(b"he\t\r"), ["help "]);
    assert_eq!(lines_of(b"a\tv\t-name\r"), ["addver -name"]);
    assert_eq!(lines_of(b"zz\t\r"), ["zz"]);
    assert_eq!(lines_of(b"help a\t\r"), ["help a"]);
    let mut editor = Editor::new(80, &["addver", "addconf"]);
    let (_, out) = feed(&mut editor, b"add\t");
    assert_eq!(out, "add\r\naddver  addconf\r\n\x1b[31m> \x1b[0madd");
}

#[test]
fn lines_are_capped() {
    let lines = lines_of(&[&[b'x'; MAX_LINE + 10][..], b"\r"].concat());
    assert_eq!(lines[0].len(), MAX_LINE);
}

/// A terminal of a few columns that obeys what the editor emits.
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
                    _ => {}
                }
            }
            c => {
                rows[row][column] = c;
                column = (column + 1).min(width - 1);
            }
        }
    }
    rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn long_lines_wrap_and_are_edited_across_rows() {
    let mut editor = Editor::new(10, &[]);
    editor.prompt();
    let (_, out) = feed(&mut editor, b"abcdefghijklmnop\x01X\x05Y\x02\x02\x7f");
    let rows = screen(10, &out);
    assert_eq!(rows[..3], ["> Xabcdefg", "hijklmnpY", ""], "{out:?}");
    let (_, more) = feed(&mut editor, b"\x15z");
    let rows = screen(10, &format!("{out}{more}"));
    assert_eq!(rows[..3], ["> zpY", "", ""], "{more:?}");
}
