//! Recognises other file formats by their first bytes, so that the error message can name the
//! format.

/// The message about a file that begins with the bytes `start`. `None` if the format is not known.
pub fn what_is(start: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 9] = [
        (b"\xfd7zXZ\0", "is an xz file: convert it to gzip (xz -dc FILE | gzip) or zstd"),
        (b"BZh", "is a bzip2 file: convert it to gzip (bzip2 -dc FILE | gzip) or zstd"),
        (b"LZIP", "is an lzip file: convert it to gzip (lzip -dc FILE | gzip) or zstd"),
        (b"\x04\x22\x4d\x18", "is an lz4 file: convert it to gzip (lz4 -dc FILE | gzip) or zstd"),
        (b"\x1f\x9d", "is a compress file: convert it to gzip (gzip -dc FILE | gzip) or zstd"),
        (b"PK\x03\x04", "is a zip file: pack its contents with tar (tar czf FILE.tar.gz -C DIR .)"),
        (b"PK\x05\x06", "is an empty zip file: pack the files with tar"),
        (
            b"7z\xbc\xaf\x27\x1c",
            "is a 7z file: pack its contents with tar (tar czf FILE.tar.gz -C DIR .)",
        ),
        (
            b"Rar!\x1a\x07",
            "is a rar file: pack its contents with tar (tar czf FILE.tar.gz -C DIR .)",
        ),
    ];
    FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, said)| *said)
}
