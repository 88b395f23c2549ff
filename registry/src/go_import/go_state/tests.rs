use super::*;

const GO: &[u8] = include_bytes!("../../../tests/go/registry/state.db");

#[test]
fn go_registry_is_read_completely() {
    let state = State::read(GO).unwrap();
    let names: Vec<String> = state.components.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["code", "config", "data set", "dataset", "many", "scripts"]);
    assert_eq!(state.versions.len(), 11);
    let states: Vec<_> =
        state.configurations.iter().map(|of| (of.name.as_str(), of.states.len())).collect();
    assert_eq!(states, [("odd: name", 1), ("project1", 6), ("service-2", 2)]);
    assert_eq!(state.odd, Vec::<String>::new());
    let project1 = &state.configurations[1].states;
    assert!(project1.windows(2).all(|pair| pair[0].modified() < pair[1].modified()));
    assert!(project1[5].id().to_string().starts_with("97cc2a60"));
}

/// The file with each occurrence of `from` replaced by `to`, which has the same length.
fn edited(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = GO.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|part| part == from.as_bytes())
    {
        at += found;
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    assert!(at > 0, "{from} is not there");
    bytes
}

#[test]
fn invalid_parts_are_reported() {
    for (from, to, why) in [
        (
            "\"Version\":\"m3\"",
            "\"Version\":\"m9\"",
            "components/many/byVersion/m3: its name is many:m9",
        ),
        ("\"Name\":\"scripts\"", "\"Name\":\"scr/:ts\"", "components/scripts/byVersion/v1.0.0"),
        (
            "\"Mtime\": \"2026-11-23T04:33:17",
            "\"Mtime\": \"2026-11-99T04:33:17",
            "configs/project1/current",
        ),
        ("\"Hash\": \"6ab55984", "\"Hash\": \"6ab55985", "the id of its layers is 6ab55984"),
    ] {
        let err = State::read(&edited(from, to)).unwrap_err().to_string();
        assert!(err.contains(why), "{err}");
        assert!(err.contains("with the Go tool"), "{err}");
    }
}

#[test]
fn contradictions_are_reported_and_skipped() {
    for (from, to, why) in [
        (
            "\"Mtime\": \"2026-11-23T04:32:38",
            "\"Mtime\": \"2026-11-99T04:32:38",
            "is skipped: configuration",
        ),
        ("Z#m3", "Z#m2", "components/many: version \"m3\" is not in both byVersion and byTime"),
        (
            "[{\"Component\":\"many\",\"Version\":\"m1\"}]",
            "[{\"Component\":\"many\",\"Version\":\"m7\"}]",
            "names many:m7, which does not use the file",
        ),
    ] {
        let state = State::read(&edited(from, to)).unwrap();
        assert!(state.odd.iter().any(|odd| odd.contains(why)), "{:?}", state.odd);
        assert_ne!(state.contents, State::read(GO).unwrap().contents);
    }
}

#[test]
fn catalogue_of_another_program_is_refused() {
    let bytes = crate::go_import::bolt::tests::forge(1024, 3, 5);
    assert_eq!(State::read(&bytes), Err(Error::Foreign));
}
