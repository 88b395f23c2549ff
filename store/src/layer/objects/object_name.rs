//! Defines the names of objects. If the agent uses hardlinks, all links to an object share the
//! object's contents and metadata. So the name of the object consists of the digest of the contents
//! and a digest of the metadata. With other link modes, the name of an object is only the digest of
//! the contents.

use std::ffi::CStr;
use std::io::Write as _;

use crate::inode_meta::Meta;
use crate::layer::entry::Content;

/// The information that the names of objects state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The name states the contents.
    Contents,
    /// The name states the contents and the metadata.
    Inode {
        /// Whether the metadata include the owner. This is `true` if the agent restores owners.
        owner: bool,
    },
}

impl Naming {
    /// The name of the object for a file. With [`Naming::Inode`], `twin` (from 0) distinguishes
    /// equal files of one root that are not linked to each other.
    pub fn name(self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        let mut name = [0; NAME];
        put_hex(&mut name[..64], &content.0);
        let Self::Inode { owner } = self else { return ObjectName(name) };
        name[64] = b'-';
        put_hex(&mut name[65..97], &meta.fingerprint(owner));
        let name = ObjectName(name);
        if twin > 0 { name.twin(twin) } else { name }
    }

    /// The other kind of names: `Inode` for `Contents`, and `Contents` for `Inode`. The cache may
    /// contain names of the other kind if the agent used another link mode before.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Contents => Self::Inode { owner: rustix::process::geteuid().is_root() },
            Self::Inode { .. } => Self::Contents,
        }
    }
}

/// The size in bytes of the array for a name: contents, metadata, twin and NUL, rounded up to whole
/// words of 8 bytes.
const NAME: usize = (64_usize + 1 + 32 + 1 + 10 + 1).next_multiple_of(8);

/// The name of an object. The build of a root makes a name for every file. So a name is an array,
/// which needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName([u8; NAME]);

impl ObjectName {
    /// Parses a file name. Returns `None` if the file name is not the name of an object.
    pub fn from_file_name(name: &CStr) -> Option<Self> {
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let bytes = name.to_bytes();
        let ok = (64..NAME).contains(&bytes.len()) && bytes[..64].iter().all(hex);
        let mut text = [0; NAME];
        text.get_mut(..bytes.len())?.copy_from_slice(bytes);
        ok.then_some(Self(text))
    }

    /// The name of the object for file number `twin` of several equal files in one root. `self` is
    /// the name for file number 0.
    #[must_use]
    pub fn twin(&self, twin: u32) -> Self {
        let (mut name, end) = (self.0, self.as_bytes().len());
        write!(&mut name[end..], "-{twin}").expect("there is room for any number");
        Self(name)
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("the last byte is never used")
    }

    /// The digest of the contents that the name states.
    pub fn content(&self) -> Content {
        let mut content = [0; 32];
        let digit =
            |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap_or(0)).unwrap_or(0);
        for (byte, two) in content.iter_mut().zip(self.0[..64].chunks_exact(2)) {
            *byte = digit(two[0]) << 4 | digit(two[1]);
        }
        Content(content)
    }

    /// A hash of the name, for tables of many names.
    pub fn hash(&self) -> u64 {
        let (words, _) = self.0.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_ne_bytes(*word));
        // The hash function of FxHash is good enough here, because the name consists of digests.
        words.fold(0, |hash, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))
    }

    pub(in crate::layer) fn fan(&self) -> usize {
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("names are hex") as usize;
        digit(self.0[0]) * 16 + digit(self.0[1])
    }
}

impl std::fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_c_str().fmt(f)
    }
}

fn put_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (two, byte) in text.chunks_exact_mut(2).zip(bytes) {
        two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
