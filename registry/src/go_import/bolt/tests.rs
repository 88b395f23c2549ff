use super::*;

const GO: &[u8] = include_bytes!("../../../tests/go/registry/state.db");
const PAGE: usize = 4096;

/// Every key with its path, as text. The function reads the whole file.
fn walk(bytes: &[u8]) -> Result<Vec<String>> {
    let mut bolt = Bolt::open(bytes)?;
    let (mut lines, mut todo) = (Vec::new(), vec![(String::new(), bolt.root())]);
    while let Some((path, bucket)) = todo.pop() {
        for (key, item) in bolt.entries(&bucket)? {
            let path = format!("{path}/{}", key.escape_ascii());
            match item {
                Item::Value(value) => lines.push(format!("{path} {}", value.len())),
                Item::Bucket(bucket) => todo.push((path, bucket)),
            }
        }
    }
    lines.sort();
    Ok(lines)
}

fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = GO.to_vec();
    change(&mut bytes);
    bytes
}

/// Applies `change` to each meta page, and then corrects the page's checksum.
fn with_metas(change: impl Fn(&mut [u8])) -> Vec<u8> {
    changed(|bytes| {
        for at in [PAGE_HEADER, PAGE + PAGE_HEADER] {
            let meta = &mut bytes[at..at + META];
            change(meta);
            let sum = fnv(&meta[..META - 8]);
            meta[META - 8..].copy_from_slice(&sum.to_le_bytes());
        }
    })
}

#[test]
fn file_of_the_go_tool_is_read() {
    let lines = walk(GO).unwrap();
    assert_eq!(lines.len(), 45, "{lines:#?}");
    assert!(lines.contains(&"/components/data set/byVersion/x y z 232".to_owned()), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("/configs/project1/2026-11-23T04:33:13Z#6c5bf "))
    );
    assert_eq!(Bolt::open(GO).unwrap().transaction(), 25);
}

#[test]
fn newer_undamaged_meta_page_is_used() {
    let torn = |at: usize| changed(|bytes| bytes[at + PAGE_HEADER + 20] ^= 1);
    assert_eq!(Bolt::open(&torn(0)).unwrap().transaction(), 25);
    assert_eq!(Bolt::open(&torn(PAGE)).unwrap().transaction(), 24);
    // The transaction before the last transaction had another root page.
    walk(&torn(PAGE)).unwrap();
    let both = changed(|bytes| {
        for at in [PAGE_HEADER, PAGE + PAGE_HEADER] {
            bytes[at + 20] ^= 1;
        }
    });
    assert!(Bolt::open(&both).unwrap_err().to_string().contains("wrong checksum"));
}

#[test]
fn other_files_are_refused_with_a_reason() {
    for (bytes, why) in [
        (Vec::new(), "not a bolt file"),
        (b"SQLite format 3\0".repeat(600), "not a bolt file"),
        (with_metas(|meta| meta[..4].reverse()), "big-endian"),
        (with_metas(|meta| meta[4] = 3), "version 3"),
        (with_metas(|meta| meta[8..12].copy_from_slice(&5000_u32.to_le_bytes())), "5000 bytes"),
        (GO[..PAGE * 3].to_vec(), "the file ends before page"),
        (with_metas(|meta| meta[16] = 200), "no data page 200"),
        (with_metas(|meta| meta[16] = 21), "page 21"),
    ] {
        let err = walk(&bytes).unwrap_err().to_string();
        assert!(err.contains(why), "{err:?} does not say {why:?}");
    }
}

/// A bolt file with pages of `size` bytes. The root has one bucket, `b`. The bucket has the keys
/// `k00000`, `k00001`, …, each in a leaf of its own. Each key has a value of `value` bytes.
#[allow(clippy::cast_possible_truncation, reason = "the files are small")]
pub(crate) fn forge(size: usize, keys: usize, value: usize) -> Vec<u8> {
    fn page(number: u64, kind: u16, count: usize, body: &[u8], size: usize) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(number.to_le_bytes());
        page.extend(kind.to_le_bytes());
        page.extend(u16::try_from(count).unwrap().to_le_bytes());
        let pages = (PAGE_HEADER + body.len()).div_ceil(size);
        page.extend((u32::try_from(pages).unwrap() - 1).to_le_bytes());
        page.extend(body);
        page.resize(pages * size, 0);
        page
    }
    fn leaf_body(entries: &[(Vec<u8>, u32, Vec<u8>)]) -> Vec<u8> {
        let (mut heads, mut data) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (n, (key, flags, value)) in entries.iter().enumerate() {
            let at = (entries.len() - n) * ELEMENT + data.len();
            for number in [*flags, at as u32, key.len() as u32, value.len() as u32] {
                heads.extend(number.to_le_bytes());
            }
            data.extend(key);
            data.extend(value);
        }
        heads.extend(data);
        heads
    }
    // Pages 0 and 1 are meta pages, page 2 is the root, and the branch begins at page 3. After the
    // branch come the leaves, with one key each.
    let first = |n: usize| format!("k{n:05}").into_bytes();
    let mut leaves = Vec::new();
    let (mut heads, mut data, mut next) = (Vec::<u8>::new(), Vec::<u8>::new(), 0_u64);
    let branch_pages = (PAGE_HEADER + keys * (ELEMENT + 6)).div_ceil(size) as u64;
    for n in 0..keys {
        let body = leaf_body(&[(first(n), 0, vec![b'v'; value])]);
        let number = 3 + branch_pages + next;
        let made = page(number, LEAF, 1, &body, size);
        next += (made.len() / size) as u64;
        leaves.extend(made);
        let at = (keys - n) * ELEMENT + data.len();
        heads.extend((at as u32).to_le_bytes());
        heads.extend(6_u32.to_le_bytes());
        heads.extend(number.to_le_bytes());
        data.extend(first(n));
    }
    heads.extend(data);
    let branch = page(3, BRANCH, keys, &heads, size);
    let mut bucket = 3_u64.to_le_bytes().to_vec();
    bucket.extend([0; 8]);
    let root = page(2, LEAF, 1, &leaf_body(&[(b"b".to_vec(), IS_BUCKET, bucket)]), size);
    let mut file = Vec::new();
    for number in [0_u64, 1] {
        let mut meta = Vec::new();
        for number in [MAGIC, VERSION, size as u32, 0] {
            meta.extend(number.to_le_bytes());
        }
        for number in [2, 0, 0, 3 + branch_pages + next, 7 + number] {
            meta.extend(number.to_le_bytes());
        }
        meta.extend(fnv(&meta).to_le_bytes());
        file.extend(page(number, 4, 0, &meta, size));
    }
    [file, root, branch, leaves].concat()
}

#[test]
fn page_sizes_branches_and_overflow_pages_are_read() {
    for (size, keys, value) in
        [(1024, 40, 5000), (4096, 3, 1 << 20), (16384, 500, 3), (65536, 2, 9)]
    {
        let bytes = forge(size, keys, value);
        let lines = walk(&bytes).unwrap_or_else(|err| panic!("pages of {size}: {err}"));
        assert_eq!(lines.len(), keys);
        assert_eq!(lines[1], format!("/b/k00001 {value}"));
        // The reader also works if only the second meta page is undamaged.
        let mut torn = bytes.clone();
        torn[PAGE_HEADER + 20] ^= 1;
        assert_eq!(walk(&torn).unwrap(), lines);
    }
}

#[test]
fn cycles_and_pages_that_are_used_twice_are_reported_as_damage() {
    let size = 1024;
    // The branch page is page 3; its elements begin after its header.
    let element = 3 * size + PAGE_HEADER + 8;
    let to = |page: u64| {
        let mut bytes = forge(size, 4, 10);
        bytes[element..element + 8].copy_from_slice(&page.to_le_bytes());
        walk(&bytes).unwrap_err().to_string()
    };
    assert!(to(3).contains("page 3 is used twice"), "{}", to(3));
    assert!(to(2).contains("page 2 is used twice"), "{}", to(2));
    assert!(to(5).contains("is used twice"), "{}", to(5));
    assert!(to(0).contains("no data page 0;"), "{}", to(0));
    assert!(to(u64::MAX).contains("no data page "), "{}", to(u64::MAX));
    // Here, two keys of a leaf share their bytes.
    let shared = changed(|bytes| {
        let at = 11 * PAGE + PAGE_HEADER;
        let from = bytes[at + 4..at + 8].to_vec();
        let from = u32::from_le_bytes(from.try_into().unwrap()) - 16;
        bytes[at + 20..at + 24].copy_from_slice(&from.to_le_bytes());
    });
    assert!(walk(&shared).unwrap_err().to_string().contains("wrong position"));
}

#[test]
fn changed_bytes_never_panic_and_changed_headers_are_detected() {
    let whole = walk(GO).unwrap();
    let mut used = vec![false; GO.len() / PAGE];
    let mut bolt = Bolt::open(GO).unwrap();
    let mut todo = vec![bolt.root()];
    while let Some(bucket) = todo.pop() {
        for (_, item) in bolt.entries(&bucket).unwrap() {
            if let Item::Bucket(bucket) = item {
                todo.push(bucket);
            }
        }
    }
    bolt.seen.iter().for_each(|page| used[usize::try_from(*page).unwrap()] = true);
    for at in 0..GO.len() {
        let (page, within) = (at / PAGE, at % PAGE);
        if !used[page] && page > 1 || within > 700 {
            continue;
        }
        let read = walk(&changed(|bytes| bytes[at] ^= 0xff));
        // These bytes are the number and the kind of a page.
        if page > 1 && within < 10 {
            assert!(read.is_err(), "byte {at}");
        } else if page == 0 {
            assert_eq!(read.as_ref(), Ok(&whole), "byte {at} of the older meta page");
        }
    }
}
