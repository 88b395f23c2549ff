//! Recognises other formats by their first bytes, so that a refusal can name them.

/// The message about a file with these first bytes, if its format is known.
pub fn what_is(start: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 9] = [
        (b"\xfd7zXZ\0", "is an xz file: make it gzip, as with xz -dc FILE | gzip, or zstd"),
        (b"BZh", "is a bzip2 file: make it gzip, as with bzip2 -dc FILE | gzip, or zstd"),
        (b"LZIP", "is an lzip file: make it gzip, as with lzip -dc FILE | gzip, or zstd"),
        (b"\x04\x22\x4d\x18", "is an lz4 file: make it gzip, as with lz4 -dc FILE | gzip, or zstd"),
        (b"\x1f\x9d", "is a file of compress: make it gzip, as with gzip -dc FILE | gzip, or zstd"),
        (
            b"PK\x03\x04",
            "is a zip file: pack its contents with tar, as with tar czf FILE.tar.gz -C DIR .",
        ),
        (b"PK\x05\x06", "is an empty zip file: pack the files with tar"),
        (
            b"7z\xbc\xaf\x27\x1c",
            "is a 7z file: pack its contents with tar, as with tar czf FILE.tar.gz -C DIR .",
        ),
        (
            b"Rar!\x1a\x07",
            "is a rar file: pack its contents with tar, as with tar czf FILE.tar.gz -C DIR .",
        ),
    ];
    FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, said)| *said)
}
