//! Reads any files as an image archive: indexes, manifests, configurations and layers. The importer
//! must refuse the image, or make a plan for every layer. Agents must be able to read the archive
//! that each plan gives, and this archive must have no whiteouts.
//!
//! The input is a sequence of files. A file consists of one byte with the length of the name, the
//! name, two bytes with the length of the contents (little-endian), and the contents. Contents that
//! begin with `->` make the file a link. In a name or a document, `@N@` stands for the digest of
//! the earlier file with the number N (0 to 9), and `%N%` stands for the length of this file. A
//! fuzzer could not guess these values.
#![no_main]

use deploy_from_docker::choose::{Wanted, choose};
use deploy_from_docker::plan::{Layer, plan};
use deploy_from_docker::read::image_archive::Archive;
use deploy_from_docker::read::input::Found;
use deploy_from_docker::read::image_layer::Tar;
use deploy_from_docker::read::spool::Spool;
use deploy_from_docker::send::repack::{Piece, pieces};
use deploy_store::layer::archive;
use deploy_store::layer::tar::tarball::Piece as Body;
use deploy_store::{Digest, Limits};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { entries: 10_000, bytes: 64 << 20, ..Limits::STANDARD };

fn files(mut input: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some((length, rest)) = input.split_first() {
        let (name, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let (length, rest) = rest.split_at(rest.len().min(2));
        let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (contents, rest) = rest.split_at(rest.len().min(length));
        input = rest;
        let name = filled(&String::from_utf8_lossy(name), &files);
        let contents = match std::str::from_utf8(contents) {
            Ok(text) => filled(text, &files).into_bytes(),
            Err(_) => contents.to_vec(),
        };
        files.push((name, contents));
    }
    files
}

fn filled(text: &str, files: &[(String, Vec<u8>)]) -> String {
    let mut text = text.to_owned();
    for (n, (_, contents)) in files.iter().enumerate().take(10) {
        if text.contains(&format!("@{n}@")) {
            text = text.replace(&format!("@{n}@"), &Digest::of(contents).to_string());
        }
        text = text.replace(&format!("%{n}%"), &contents.len().to_string());
    }
    text
}

fuzz_target!(|input: &[u8]| {
    let mut read = Archive::new(Spool::new(None, 256 << 20).unwrap(), LIMITS);
    for (name, contents) in files(input) {
        let found = match contents.strip_prefix(b"->") {
            Some(target) => Found::Link(String::from_utf8_lossy(target).into_owned()),
            None => Found::File(contents.len() as u64, &mut &contents[..]),
        };
        if read.take(&name, found).is_err() {
            return;
        }
    }
    if read.finish().is_err() {
        return;
    }
    let Ok(chosen) = choose(&read, &Wanted::default()) else { return };
    let tars: Vec<&Tar> = chosen.layers.iter().map(|number| &read.layers[*number]).collect();
    let layers: Vec<Layer<'_>> =
        tars.iter().map(|tar| Layer { diff_id: tar.diff_id, listing: &tar.listing }).collect();
    let Ok(planned) = plan(&layers) else { return };
    for (number, planned) in planned.iter().enumerate() {
        let mut tar = Vec::new();
        let mut each = |piece| {
            match piece {
                Piece::Bytes(bytes) => tar.extend(bytes),
                Piece::Copy { region, range } => {
                    let start = tar.len();
                    tar.resize(start + usize::try_from(range.end - range.start).unwrap(), 0);
                    read.spool.read(region, range.start, &mut tar[start..]).unwrap();
                }
            }
            Ok(true)
        };
        assert!(pieces(&read.spool, &tars, number, planned, &mut each).unwrap());
        let mut kept = 0;
        let mut buffer = [0; 4096];
        archive::read(&tar[..], false, LIMITS, |entry, body| {
            let path = entry.path.as_bytes();
            let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            assert!(!last.starts_with(b".wh."), "a whiteout is left: {entry:?}");
            kept += usize::from(!entry.path.is_root());
            if let Some(mut body) = body {
                while body.next_piece(&mut buffer)? != Body::End {}
            }
            Ok(())
        })
        .unwrap_or_else(|err| panic!("the repacked layer {number} cannot be read: {err}"));
        assert_eq!(kept, planned.kept);
    }
});
