//! Makes and recognises the keys of objects: `blobs/AA/DIGEST.ID`. `AA` are the first two digits of
//! the digest. The id is different for each upload, so no key is used twice. Therefore a late
//! request to delete an object cannot delete a newer object.

use std::time::SystemTime;

use deploy_store::Digest;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};

/// The beginning of the keys of all objects, after the prefix of the bucket.
pub(super) const BLOBS: &str = "blobs/";
/// The digits of an id: base 32 without letters that look like other letters or digits.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// The number of digits of an id.
const LENGTH: usize = 26;

/// A new key for an object of the blob.
pub(super) fn new(digest: Digest) -> Result<String> {
    let mut random = [0; 10];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|err| Error::Failed(format!("get random bytes: {err}")))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let milliseconds = u64::try_from(since.as_millis()).unwrap_or(0);
    Ok(with_id(digest, &id(milliseconds, random)))
}

fn with_id(digest: Digest, id: &str) -> String {
    let digest = digest.to_string();
    format!("{BLOBS}{}/{digest}.{id}", &digest[..2])
}

/// An id (a ULID): the time in milliseconds since 1970, and random bits.
fn id(milliseconds: u64, random: [u8; 10]) -> String {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    let number = u128::from_be_bytes(bytes);
    let digit = |place: usize| {
        let shifted = number >> (5 * (LENGTH - 1 - place));
        char::from(DIGITS[usize::try_from(shifted & 31).unwrap_or(0)])
    };
    (0..LENGTH).map(digit).collect()
}

/// The digest in a key. `None` if this is not the key of an object.
pub(super) fn digest(place: &str) -> Option<Digest> {
    let (_, name) = place.strip_prefix(BLOBS)?.split_once('/')?;
    let (digest, id) = name.split_once('.')?;
    let digest: Digest = digest.parse().ok()?;
    (id.len() == LENGTH && with_id(digest, id) == place).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_name_their_digest() {
        let blob = Digest::of(b"one");
        let (one, other) = (new(blob).unwrap(), new(blob).unwrap());
        assert_ne!(one, other);
        assert_eq!((digest(&one), digest(&other)), (Some(blob), Some(blob)));
        assert_eq!(digest(&one[1..]), None);
        assert_eq!(digest(&format!("{one}x")), None);
        assert_eq!(digest("blobs/00/x.y"), None);
    }

    #[test]
    fn ids_are_sorted_by_time() {
        assert_eq!(id(0, [0; 10]), "0".repeat(26));
        assert_eq!(id((1 << 48) - 1, [255; 10]), format!("7{}", "z".repeat(25)));
        assert!(id(1, [255; 10]) < id(2, [0; 10]));
    }
}
