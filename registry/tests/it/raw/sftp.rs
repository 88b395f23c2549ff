//! Defines an sftp client that sends single packets. Some tests use it to replay the packets of
//! clients that cannot be installed on the test machine.

use super::{DATA, EOF, EXTENDED_DATA, Raw, data, request, string};
use crate::rig::Rig;

/// The kinds of packets (draft-ietf-secsh-filexfer-02, section 3).
pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const WRITE: u8 = 6;
pub const LSTAT: u8 = 7;
pub const SETSTAT: u8 = 9;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const REALPATH: u8 = 16;
pub const STAT: u8 = 17;
pub const RENAME: u8 = 18;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

/// Flags for opening a file. `NEW` means write, create and truncate. `APPEND` means write, append
/// and create.
pub const NEW: u32 = 2 | 8 | 16;
pub const APPEND: u32 = 2 | 4 | 8;

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A status. 0 means success.
    Status(u32),
    Handle(Vec<u8>),
    /// Whether the file is a directory, and the size of the file.
    File(bool, u64),
    Names(Vec<String>),
}

/// An sftp session.
pub struct Sftp {
    raw: Raw,
    channel: [u8; 4],
    heard: Vec<u8>,
    id: u32,
    /// The server's output on standard error.
    pub told: String,
}

impl Sftp {
    pub fn start(rig: &Rig) -> Self {
        let mut raw = Raw::log_in(rig, "op", "me");
        let channel = raw.open(1 << 21).expect("the server opened no channel");
        raw.send(&request(channel, "subsystem", true, &string(b"sftp"))).unwrap();
        raw.wait_for(99).expect("the server did not start the subsystem");
        let mut sftp = Self { raw, channel, heard: Vec::new(), id: 0, told: String::new() };
        sftp.send(&[1, 0, 0, 0, 3]);
        assert_eq!(sftp.packet()[0], 2, "the answer is not a VERSION packet");
        sftp
    }

    fn send(&mut self, packet: &[u8]) {
        self.raw.send(&data(self.channel, &string(packet))).unwrap();
    }

    fn packet(&mut self) -> Vec<u8> {
        loop {
            if self.heard.len() >= 4 {
                let length = u32::from_be_bytes(self.heard[..4].try_into().unwrap()) as usize;
                if self.heard.len() >= 4 + length {
                    let packet = self.heard[4..4 + length].to_vec();
                    self.heard.drain(..4 + length);
                    return packet;
                }
            }
            let message = self.raw.read().unwrap();
            match message[0] {
                DATA => self.heard.extend_from_slice(&message[9..]),
                EXTENDED_DATA => self.told += &String::from_utf8_lossy(&message[13..]),
                _ => {}
            }
        }
    }

    /// Sends one request, and reads the answer. `fields` are the fields after the request's number.
    pub fn ask(&mut self, kind: u8, fields: &[&[u8]]) -> Answer {
        self.id += 1;
        let packet = [&[kind][..], &self.id.to_be_bytes(), &fields.concat()].concat();
        self.send(&packet);
        let packet = self.packet();
        assert_eq!(packet[1..5], self.id.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        match packet[0] {
            STATUS => Answer::Status(number(5)),
            HANDLE => Answer::Handle(packet[9..].to_vec()),
            // The packet has flags, size, user, group and permissions.
            ATTRS => {
                let size = u64::from_be_bytes(packet[9..17].try_into().unwrap());
                Answer::File(number(25) & 0o040_000 != 0, size)
            }
            NAME => Answer::Names(names(&packet[5..])),
            other => panic!("unexpected answer {other}"),
        }
    }

    /// Sends one request with a path and more fields, and reads the answer.
    pub fn path(&mut self, kind: u8, path: &str, more: &[u8]) -> Answer {
        self.ask(kind, &[&string(path.as_bytes()), more])
    }

    /// Writes a file in pieces of 32 KiB. Returns the status of the close. If the file cannot be
    /// opened, returns the status of the open.
    pub fn upload(&mut self, path: &str, flags: u32, bytes: &[u8]) -> Answer {
        let more = [flags.to_be_bytes(), [0; 4]].concat();
        let handle = match self.path(OPEN, path, &more) {
            Answer::Handle(handle) => string(&handle),
            other => return other,
        };
        for (number, piece) in bytes.chunks(32 << 10).enumerate() {
            let offset = (number as u64 * (32 << 10)).to_be_bytes();
            let answer = self.ask(WRITE, &[&handle, &offset, &string(piece)]);
            assert_eq!(answer, Answer::Status(0));
        }
        self.ask(CLOSE, &[&handle])
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Answer {
        self.path(RENAME, from, &string(to.as_bytes()))
    }

    /// The names in a directory.
    pub fn list(&mut self, path: &str) -> Vec<String> {
        let Answer::Handle(handle) = self.path(OPENDIR, path, &[]) else { panic!("{path}") };
        let mut all = Vec::new();
        while let Answer::Names(names) = self.ask(READDIR, &[&string(&handle)]) {
            all.extend(names);
        }
        assert_eq!(self.ask(CLOSE, &[&string(&handle)]), Answer::Status(0));
        all
    }

    /// Ends the input, and reads the remaining output.
    pub fn end(mut self) -> String {
        self.raw.send(&[&[EOF][..], &self.channel].concat()).unwrap();
        while let Ok(message) = self.raw.read() {
            match message[0] {
                EXTENDED_DATA => self.told += &String::from_utf8_lossy(&message[13..]),
                super::CLOSE => break,
                _ => {}
            }
        }
        self.told
    }
}

/// Attributes with times and permissions, in the form in which a client sets them.
pub fn attributes(permissions: u32, time: u32) -> Vec<u8> {
    [12, permissions, time, time].map(u32::to_be_bytes).concat()
}

fn names(mut packet: &[u8]) -> Vec<String> {
    let mut take = |length: usize| {
        let (taken, rest) = packet.split_at(length);
        packet = rest;
        taken.to_vec()
    };
    let number = |bytes: Vec<u8>| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    let count = number(take(4));
    let mut names = Vec::new();
    for _ in 0..count {
        let length = number(take(4));
        names.push(String::from_utf8(take(length)).unwrap());
        let length = number(take(4));
        take(length);
        // The answer to REALPATH has no attributes.
        let flags = number(take(4));
        let sizes = [(1, 8), (2, 8), (4, 4), (8, 8)];
        take(sizes.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, size)| size).sum());
    }
    names
}
