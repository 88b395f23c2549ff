//! Reads any bytes as a Go registry's `state.db`: first unchanged, and then as the pages after two
//! valid meta pages. The reader must accept or refuse the bytes. The length of the bytes must
//! limit the time that the reader takes.
#![no_main]

use deploy_registry::go_import::State;
use libfuzzer_sys::fuzz_target;

const PAGE: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let _ = State::read(bytes);
    let mut file = Vec::new();
    for number in [0_u64, 1] {
        let mut page = vec![0; 16];
        page[..8].copy_from_slice(&number.to_le_bytes());
        for number in [0xED0C_DAED_u32, 2, 512, 0] {
            page.extend(number.to_le_bytes());
        }
        let end = (bytes.len().div_ceil(PAGE) + 2) as u64;
        for number in [2, 0, 0, end, number + 1] {
            page.extend(number.to_le_bytes());
        }
        let sum = page[16..].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        page.extend(sum.to_le_bytes());
        page.resize(PAGE, 0);
        file.extend(page);
    }
    file.extend(bytes);
    file.resize(file.len().next_multiple_of(PAGE), 0);
    let _ = State::read(&file);
});
