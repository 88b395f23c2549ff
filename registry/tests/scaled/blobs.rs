//! The archives that operators upload. There are so few of them that operators often upload an
//! archive that is stored, staged, condemned or just deleted.

use crate::dice::Dice;

/// How many archives there are.
const TEXTS: usize = 60;
/// The archives from this number on are long, so that they are sent to the bucket in parts.
const LONG_FROM: usize = 58;
const LONG: usize = 17 << 20;

/// The number of a random archive. Long archives are rare.
pub fn some(dice: &mut Dice) -> usize {
    if dice.throw(60) == 0 {
        LONG_FROM + dice.throw(TEXTS - LONG_FROM)
    } else {
        dice.throw(LONG_FROM)
    }
}

/// The name of the archive's file, which is also its first line.
pub fn name(text: usize) -> String {
    format!("t{text:03}")
}

/// An archive with one small file, and a long file if the archive is long.
pub fn archive(text: usize) -> Vec<u8> {
    let name = name(text);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, contents: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, contents).unwrap();
    };
    add(&name, format!("{name}\n").as_bytes());
    if text >= LONG_FROM {
        add(&format!("long-{name}"), &name.repeat(LONG / name.len()).into_bytes());
    }
    archive.into_inner().unwrap()
}
