//! Checks the bytes after the end of compressed data. Some packers fill their last block with
//! zeros, for example bsdtar when it writes to a pipe or a tape. No other bytes may follow the
//! data.

use std::io::{self, BufRead};

/// The maximum number of zeros that may follow the data.
const PADDING: u64 = 1 << 20;
/// The maximum number of bytes that are counted for the message.
const COUNTED: u64 = 1 << 30;

/// Reads the bytes of `source` that follow the compressed data. At most `PADDING` zeros are
/// allowed. `what` is the name of the format, for the message.
pub fn only_padding(source: &mut impl BufRead, what: &str) -> io::Result<()> {
    let (mut count, mut others) = (0, false);
    while count <= COUNTED {
        let bytes = match source.fill_buf() {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if bytes.is_empty() {
            break;
        }
        others |= bytes.iter().any(|byte| *byte != 0);
        let n = bytes.len();
        count += n as u64;
        source.consume(n);
    }
    if !others && count <= PADDING {
        return Ok(());
    }
    let many = if count > COUNTED { format!("more than {COUNTED}") } else { count.to_string() };
    let zeros = if others { "bytes" } else { "zeros" };
    let only = if count > COUNTED {
        String::new()
    } else {
        format!(", or cut off these {zeros} (head -c -{count})")
    };
    if count == 1 {
        return Err(io::Error::other(format!(
            "1 byte follows the end of its {what} data: pack it again, or cut off this byte (head \
             -c -1)"
        )));
    }
    Err(io::Error::other(format!(
        "{many} {zeros} follow the end of its {what} data: pack it again{only}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limited_number_of_zeros_is_padding() {
        let told = |bytes: &[u8]| only_padding(&mut &*bytes, "gzip").map_err(|err| err.to_string());
        for good in [0, 1, 10_239, 1 << 20] {
            assert_eq!(told(&vec![0; good]), Ok(()), "{good}");
        }
        let many = told(&vec![0; (1 << 20) + 1]).unwrap_err();
        assert!(many.starts_with("1048577 zeros follow the end of its gzip data"), "{many}");
        let others = told(b"\0\0more").unwrap_err();
        assert!(others.starts_with("6 bytes follow") && others.contains("head -c -6"), "{others}");
    }
}
