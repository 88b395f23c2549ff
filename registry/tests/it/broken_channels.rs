//! Breaks the protocol of channels as a logged-in client. The connection of such a client may end,
//! but other connections continue. The registry does not panic, and its memory use stays small.

use std::io::Write as _;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use crate::raw::{
    ADJUST, CLOSE, DATA, DISCONNECT, EOF, EXTENDED_DATA, KEXINIT, OPEN, REFUSAL, REQUEST, Raw,
    data, kexinit, number, open, request, string,
};
use crate::rig::Rig;

/// Maximum growth of the registry's memory while one hostile client is connected, in KiB.
const MUCH_KIB: u64 = 48 << 10;
/// Time limit of a test's write. The write fails if the server takes no data for this long.
const FULL: Duration = Duration::from_secs(2);

/// The required result of a breach of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The connection continues.
    Lives,
    /// The server ends the connection.
    Ends,
    /// Both results are allowed, because a client that reads nothing may have to stop in the middle
    /// of a packet.
    Any,
}

/// Another client, which is in the middle of a session at the prompt.
struct Bystander {
    ssh: std::process::Child,
    stdin: ChildStdin,
    stdout: std::io::BufReader<ChildStdout>,
    said: usize,
}

impl Bystander {
    fn new(rig: &Rig) -> Self {
        let mut command = rig.client("ssh", "op");
        command.arg("calm@127.0.0.1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = command.spawn().unwrap();
        let stdin = ssh.stdin.take().unwrap();
        let stdout = std::io::BufReader::new(ssh.stdout.take().unwrap());
        Self { ssh, stdin, stdout, said: 0 }
    }

    /// Checks that the session continues: a command still gets its answer.
    fn goes_on(&mut self) {
        use std::io::BufRead as _;
        self.stdin.write_all(b"components -json\n").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "[]\n", "wrong answer after {} correct answers", self.said);
        self.said += 1;
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// A breach of the protocol: its name, its required result, and the function that commits the
/// breach.
type Case<'a> = (&'a str, Then, &'a dyn Fn(&mut Raw));

/// Runs each of `cases` with a new client, and checks the bystander after each case.
fn each(cases: &[Case<'_>]) {
    let mut rig = Rig::start();
    let mut calm = Bystander::new(&rig);
    calm.goes_on();
    let before = rig.memory("VmRSS:");
    for (what, then, attack) in cases {
        let mut raw = Raw::log_in(&rig, "op", "me");
        attack(&mut raw);
        calm.goes_on();
        let lives = raw.answers();
        let as_due = *then == Then::Any || lives == (*then == Then::Lives);
        assert!(as_due, "{what}: the connection lives: {lives}, {:#?}", rig.log());
        drop(raw);
        calm.goes_on();
        let peak = rig.memory("VmHWM:");
        assert!(peak < before + MUCH_KIB, "{what}: {before} KiB before, {peak} at most");
    }
    let log = rig.log();
    let mistakes = ["internal error", "failed inside", "panicked"];
    let mistake = log.iter().find(|line| mistakes.iter().any(|text| line.contains(text)));
    assert!(mistake.is_none(), "{mistake:?}");
    drop(calm);
    assert!(rig.stop("-TERM").success());
}

/// A channel with a command that reads its input.
fn reading(raw: &mut Raw) -> [u8; 4] {
    let channel = raw.open(1 << 20).unwrap();
    let line = string(b"put -name c -version v");
    raw.send(&request(channel, "exec", false, &line)).unwrap();
    channel
}

#[test]
fn broken_windows_end_only_their_connection() {
    let most = u32::MAX.to_be_bytes();
    each(&[
        ("a window that grows over the largest value", Then::Lives, &|raw| {
            let channel = raw.open(u32::MAX).unwrap();
            for _ in 0..1_000 {
                raw.send(&[&[ADJUST][..], &channel, &most].concat()).unwrap();
            }
            raw.send(&request(channel, "exec", true, &string(b"components -json"))).unwrap();
            assert_eq!(raw.wait_for(DATA).unwrap()[9..], *b"[]\n");
        }),
        ("a window of 0 bytes", Then::Lives, &|raw| {
            let channel = raw.open(0).unwrap();
            raw.send(&request(channel, "exec", true, &string(b"help"))).unwrap();
            raw.wait_for(99).unwrap();
        }),
        ("32 times the window's data on a channel without a request", Then::Lives, &|raw| {
            // There was no request on this channel, so the server has no use for the data.
            let channel = raw.open(0).unwrap();
            for _ in 0..(64 << 20) / 32_768 {
                raw.send(&data(channel, &vec![b'x'; 32_768])).unwrap();
            }
        }),
        ("32 times the window's data for a command that stores the data", Then::Lives, &|raw| {
            let channel = reading(raw);
            for _ in 0..(64 << 20) / 32_768 {
                raw.send(&data(channel, &vec![b'x'; 32_768])).unwrap();
            }
        }),
        ("packets that are larger than agreed", Then::Lives, &|raw| {
            let channel = reading(raw);
            for _ in 0..20 {
                raw.send(&data(channel, &vec![b'x'; 200_000])).unwrap();
            }
        }),
    ]);
}

#[test]
fn unknown_channels_end_only_their_connection() {
    let none = [0xff; 4];
    each(&[
        ("every message about a channel that does not exist", Then::Lives, &|raw| {
            for channel in [none, number(3), number(0x8000_0000)] {
                for kind in [EOF, CLOSE, 99, 100] {
                    raw.send(&[&[kind][..], &channel].concat()).unwrap();
                }
                raw.send(&data(channel, b"data")).unwrap();
                raw.send(&[&[ADJUST][..], &channel, &[0xff; 4]].concat()).unwrap();
                let extended = [&[EXTENDED_DATA][..], &channel, &number(1), &string(b"x")];
                raw.send(&extended.concat()).unwrap();
            }
        }),
        ("a channel that is closed again and again", Then::Lives, &|raw| {
            let channel = raw.open(1 << 20).unwrap();
            for _ in 0..100 {
                raw.send(&[&[CLOSE][..], &channel].concat()).unwrap();
                raw.send(&data(channel, b"data")).unwrap();
                raw.send(&[&[EOF][..], &channel].concat()).unwrap();
            }
        }),
        ("data after the end of the data", Then::Lives, &|raw| {
            let channel = reading(raw);
            raw.send(&[&[EOF][..], &channel].concat()).unwrap();
            for _ in 0..100 {
                raw.send(&data(channel, &vec![b'x'; 30_000])).unwrap();
            }
        }),
    ]);
}

#[test]
fn broken_requests_end_only_their_connection() {
    each(&[
        ("a command line of a megabyte", Then::Ends, &|raw| {
            let channel = raw.open(1 << 20).unwrap();
            let line = string(&vec![b'x'; 1 << 20]);
            let _ = raw.send(&request(channel, "exec", true, &line));
        }),
        ("a command line of 200,000 bytes", Then::Lives, &|raw| {
            let channel = raw.open(1 << 20).unwrap();
            let line = string(&vec![b'x'; 200_000]);
            raw.send(&request(channel, "exec", true, &line)).unwrap();
            raw.wait_for(100).expect("no refusal arrived");
        }),
        ("10,000 variables", Then::Lives, &|raw| {
            let channel = raw.open(1 << 20).unwrap();
            for n in 0..10_000 {
                let fields = [string(format!("NAME{n}").as_bytes()), string(&[b'v'; 1_000])];
                raw.send(&request(channel, "env", false, &fields.concat())).unwrap();
            }
        }),
        ("unknown requests", Then::Lives, &|raw| {
            let channel = raw.open(1 << 20).unwrap();
            for name in ["x", "", "\u{1b}[2J", &"n".repeat(30_000)] {
                raw.send(&request(channel, name, true, &[])).unwrap();
                let global = [&[80][..], &string(name.as_bytes()), &[1]].concat();
                raw.send(&global).unwrap();
            }
        }),
        ("100,000 requests from a client that reads no answer", Then::Any, &|raw| {
            raw.write_timeout(FULL);
            let ask = [&[80][..], &string(b"keepalive@openssh.com"), &[1]].concat();
            for _ in 0..100_000 {
                if raw.send(&ask).is_err() {
                    break;
                }
            }
        }),
        ("20,000 channels from a client that reads no answer", Then::Any, &|raw| {
            raw.write_timeout(FULL);
            for _ in 0..20_000 {
                if raw.send(&open(1 << 20)).is_err() {
                    break;
                }
            }
        }),
        ("channels of other kinds", Then::Lives, &|raw| {
            let (address, port) = (string(b"127.0.0.1"), number(22).to_vec());
            let one = [&address[..], &port].concat();
            let two = one.repeat(2);
            for (kind, fields) in [
                ("direct-tcpip", &two[..]),
                ("forwarded-tcpip", &two),
                ("x11", &one),
                ("auth-agent@openssh.com", &[]),
                ("?", &[]),
            ] {
                let sizes = [number(7), number(1 << 20), number(32_768)].concat();
                raw.send(&[&[OPEN][..], &string(kind.as_bytes()), &sizes, fields].concat())
                    .unwrap();
                assert_eq!(raw.read().unwrap()[0], REFUSAL, "{kind}");
            }
        }),
    ]);
}

#[test]
fn broken_packets_end_only_their_connection() {
    each(&[
        ("a packet of 4 GiB", Then::Ends, &|raw| {
            let _ = raw.send_packet([0xff; 4], vec![0; 64]);
        }),
        ("a packet of a megabyte that never arrives", Then::Ends, &|raw| {
            let _ = raw.send_packet(number(1 << 20), vec![0; 64]);
        }),
        ("a packet of 0 bytes", Then::Ends, &|raw| {
            let _ = raw.send_packet([0; 4], Vec::new());
        }),
        ("padding beyond the end of the packet", Then::Ends, &|raw| {
            let _ = raw.send_packet(number(32), [&[0xff][..], &[DATA; 31]].concat());
        }),
        ("bytes that are not encrypted", Then::Ends, &|raw| {
            let _ = raw.send_bytes(&[0x5a; 4_096]);
        }),
        ("a disconnect with a long reason", Then::Ends, &|raw| {
            let reason = string(&vec![b'\x1b'; 30_000]);
            raw.send(&[&[DISCONNECT][..], &number(2), &reason, &string(b"")].concat()).unwrap();
        }),
        ("messages of unknown kinds", Then::Lives, &|raw| {
            for kind in [0, 60, 77, 101, 150, 192, 255] {
                raw.send(&[kind, 1, 2, 3]).unwrap();
            }
        }),
        ("a login after the login", Then::Lives, &|raw| {
            let service = [&[5][..], &string(b"ssh-userauth")].concat();
            let mut request = vec![50];
            for text in ["deploy-agent", "ssh-connection", "none"] {
                request.extend(string(text.as_bytes()));
            }
            for _ in 0..100 {
                raw.send(&service).unwrap();
                raw.send(&request).unwrap();
            }
        }),
    ]);
}

#[test]
fn incomplete_key_exchange_ends_only_its_connection() {
    each(&[
        ("a key exchange that never ends, with data", Then::Ends, &|raw| {
            let channel = reading(raw);
            raw.send(&kexinit()).unwrap();
            raw.wait_for(KEXINIT).expect("the server did not begin its part of the key exchange");
            for _ in 0..1_000 {
                if raw.send(&data(channel, &vec![b'x'; 30_000])).is_err() {
                    break;
                }
            }
        }),
        ("1,000 beginnings of a key exchange", Then::Ends, &|raw| {
            for _ in 0..1_000 {
                if raw.send(&kexinit()).is_err() {
                    break;
                }
            }
        }),
        // The server ignores this message, and the keys stay the same.
        ("new keys that were not agreed on", Then::Lives, &|raw| {
            raw.send(&[21]).unwrap();
        }),
        ("new keys after half of a key exchange", Then::Ends, &|raw| {
            raw.send(&kexinit()).unwrap();
            let _ = raw.send(&[21]);
        }),
    ]);
}

/// Sends a message of each kind, cut off after each of its bytes, on an existing channel.
#[test]
fn truncated_messages_end_only_their_connection() {
    let mut rig = Rig::start();
    let mut calm = Bystander::new(&rig);
    let before = rig.memory("VmRSS:");
    let mut raw = Raw::log_in(&rig, "op", "me");
    let (mut sent, mut logins) = (0, 1);
    for kind in
        [OPEN, 91, 92, ADJUST, DATA, EXTENDED_DATA, EOF, CLOSE, REQUEST, 99, 100, 80, 81, 82]
    {
        let Some(channel) = raw.open(1 << 20) else { panic!("no channel for {kind}") };
        let whole = match kind {
            OPEN => open(1),
            80 => {
                [&[80][..], &string(b"tcpip-forward"), &[1], &string(b"::"), &number(22)].concat()
            }
            REQUEST => {
                let sizes = [number(80), number(24), number(0), number(0)].concat();
                let fields = [string(b"xterm"), sizes, string(&[0])].concat();
                request(channel, "pty-req", true, &fields)
            }
            _ => [&[kind][..], &channel, &number(3), &string(b"abc"), &[0; 8]].concat(),
        };
        for length in 1..whole.len() {
            sent += 1;
            if raw.send(&whole[..length]).is_err() || !raw.answers() {
                logins += 1;
                raw = Raw::log_in(&rig, "op", "me");
            }
        }
        // A connection may have only a few channels open, so each kind of message gets a new
        // connection.
        raw = Raw::log_in(&rig, "op", "me");
        calm.goes_on();
    }
    assert!(sent > 200 && logins < sent, "{sent} messages, {logins} logins");
    let peak = rig.memory("VmHWM:");
    assert!(peak < before + MUCH_KIB, "{before} KiB before, {peak} at most");
    let log = rig.log();
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    drop((raw, calm));
    assert!(rig.stop("-TERM").success());
}
