//! Tests the prompt with a real ssh client, on a pty and on a pipe.

use crate::rig::{Rig, both};

const PROMPT: &str = "\x1b[31m> \x1b[0m";

fn on_terminal(rig: &Rig, input: &str) -> String {
    let output = rig.ssh_with_input(&["-tt"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prompt_on_a_terminal_has_colour_echo_and_crlf() {
    let rig = Rig::start();
    let seen = on_terminal(&rig, "nope\rcomponents\n\x04");
    let (first, rest) = seen.split_at(PROMPT.len());
    assert_eq!(first, PROMPT);
    let unknown =
        rest.strip_prefix("nope\r\n\x1b[31mUnknown command, supported commands are:\x1b[0m\r\n");
    let rest = unknown.unwrap_or_else(|| panic!("{seen:?}"));
    let (_, rest) = rest.split_once(PROMPT).unwrap();
    assert_eq!(rest, format!("components\r\n{PROMPT}\r\n"));
}

#[test]
fn prompt_supports_editing_completion_and_exit() {
    let rig = Rig::start();
    for leave in ["exit\r", "quit\r", "\x04", "bogus\x03exit\n"] {
        assert!(on_terminal(&rig, leave).starts_with(PROMPT), "{leave:?}");
    }
    let seen = on_terminal(&rig, "compo\t\rxyz\x15configu\t\r\x1b[A\x1b[A\x1b[B\rexit\r");
    assert!(seen.contains("components \r\n"), "{seen:?}");
    assert!(seen.contains("configurations \r\n"), "{seen:?}");
    assert!(!seen.contains("Unknown command"), "{seen:?}");
}

#[test]
fn pasted_lines_run_one_by_one() {
    let rig = Rig::start();
    let pasted: Vec<String> = (0..50).map(|n| format!("showcomp -name c{n}\r")).collect();
    let seen = on_terminal(&rig, &format!("{}exit\r", pasted.concat()));
    for n in 0..50 {
        assert_eq!(seen.matches(&format!("c{n}\r\n")).count(), 1, "{n}: {seen:?}");
    }
    assert_eq!(seen.matches(PROMPT).count(), 1 + 50, "{seen:?}");
}

#[test]
fn prompt_on_a_pipe_prints_only_answers() {
    let rig = Rig::start();
    let output = rig.ssh_with_input(&["-T"], b"components\n\nconfigurations\r\n");
    assert_eq!((output.status.code(), both(&output)), (Some(0), String::new()));
    let output = rig.ssh_with_input(&["-T"], b"showcomp -name x\nhelp");
    assert_eq!(output.status.code(), Some(1));
    let (told, errors) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(told.starts_with("addver  ") && !told.contains(['\x1b', '\r']), "{told:?}");
    assert!(!errors.is_empty());
    let output = rig.ssh_with_input(&["-T"], b"exit\nnonsense\n");
    assert_eq!((output.status.code(), both(&output)), (Some(0), String::new()));
    let output = rig.ssh_with_input(&["-T"], &[&[b'x'; 5000][..], b"\n\xff\xfe\n"].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).contains("longer than 4096 bytes"), "{}", both(&output));
    assert!(both(&output).contains("not UTF-8"), "{}", both(&output));
}

#[test]
fn key_without_pty_permission_gets_no_terminal() {
    let mut rig = Rig::idle();
    rig.authorize("op.keys", "no-pty ", &["op"]);
    rig.run();
    let output = rig.ssh_with_input(&["-tt"], b"exit\n");
    assert!(both(&output).contains("PTY allocation request failed"), "{}", both(&output));
    let output = rig.ssh_with_input(&["-T"], b"components\n");
    assert_eq!(output.status.code(), Some(0));
}
