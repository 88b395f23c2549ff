//! Makes the layer with `.deploy/image.json`, a file that states how to run an image.

use tar::{EntryType, Header};

use crate::choose::manifest::Run;

/// The path of the file's directory in the root.
const DIRECTORY: &str = ".deploy/";
const FILE: &str = ".deploy/image.json";

/// Makes the tar of the layer. The same `run` always gives the same tar.
pub fn image_json_layer(run: &Run) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(run).expect("texts and lists are JSON");
    json.push(b'\n');
    let mut tar = header(DIRECTORY, EntryType::Directory, 0o755, 0).as_bytes().to_vec();
    let length = json.len();
    tar.extend_from_slice(header(FILE, EntryType::Regular, 0o644, length as u64).as_bytes());
    json.resize(length.next_multiple_of(512) + 1024, 0);
    tar.extend_from_slice(&json);
    tar
}

fn header(path: &str, kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).expect("the path is short");
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // The modification time is 0, because the times in an image depend on the format of the image.
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use deploy_store::Limits;

    use super::*;
    use crate::read::listing::Listing;

    #[test]
    fn image_json_has_only_the_set_fields() {
        let run = Run { user: Some("app".to_owned()), ..Run::default() };
        let tar = image_json_layer(&run);
        let listing =
            Listing::read(&tar[..], Limits::STANDARD, &crate::read::budget::Budget::new(1 << 20))
                .unwrap();
        let paths: Vec<_> = listing.members().map(|member| member.path).collect();
        assert_eq!(paths, [&b".deploy"[..], b".deploy/image.json"]);
        let text = String::from_utf8_lossy(&tar[1024..]).into_owned();
        assert!(text.starts_with("{\n  \"User\": \"app\"\n}\n\0"), "{text:?}");
    }
}
