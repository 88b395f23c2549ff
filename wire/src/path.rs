//! Converts names to parts of the paths that operators see over sftp, such as
//! `/components/NAME/VERSION`. The names that the registry allows for new components, versions and
//! configurations stay unchanged. An older name may have bytes that a path cannot have. The module
//! percent-encodes these bytes (RFC 3986, section 2.1).

use std::fmt::Write as _;

/// `name` as one part of a path.
pub fn encode(name: &str) -> String {
    let mut part = String::with_capacity(name.len());
    let only_dots = name.bytes().all(|byte| byte == b'.');
    for c in name.chars() {
        if c == '/' || c == '%' || c.is_control() || (only_dots && c == '.') {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(part, "%{byte:02X}").expect("a string takes any text");
            }
        } else {
            part.push(c);
        }
    }
    part
}

/// The name that `part` of a path encodes. `None` if `part` encodes no name.
pub fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_become_parts_of_paths_and_back() {
        for (name, part) in [
            ("code", "code"),
            ("v1.2-3~x@y+z", "v1.2-3~x@y+z"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("..a", "..a"),
            ("5%", "5%25"),
            ("a\nb", "a%0Ab"),
            ("zwei wörter", "zwei wörter"),
        ] {
            assert_eq!(encode(name), part);
            assert_eq!(decode(part).as_deref(), Some(name));
        }
        for bad in ["", "%", "%2", "%zz", "%FF"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_becomes_one_part_and_back(name in any::<String>()) {
            let part = encode(&name);
            prop_assert!(!part.contains('/') && part != "." && part != "..");
            prop_assert_eq!(decode(&part), Some(name).filter(|name| !name.is_empty()));
        }
    }
}
