//! Examples for each verb, as they are typed at the prompt.

/// Examples for the verb called `name`. Those that read standard input are for a shell: the
/// prompt has none.
pub fn examples(name: &str) -> &'static [&'static str] {
    match name {
        "addver" => &[concat!(
            "addver -name config -version v3 -hash ",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        )],
        "put" => &["put -name config -version v3 < config.tgz"],
        "addconf" => &[
            "addconf -name web -layer code:v7 -layer config:v3",
            "addconf -name web -layer code:v7 -replace",
        ],
        "addimage" => &["addimage -name app - < layers.json"],
        "import" => {
            &["import -name app < image.tar", "import -name app -platform linux/arm64 < image.tar"]
        }
        "bumpconf" => &[
            "bumpconf -name web -component config",
            "bumpconf -name web -component code -component config",
        ],
        "changeconf" => &[
            "changeconf -name web -component config -version v2",
            "changeconf -name web -component code -version v6 -component config -version v2",
        ],
        "showconf" => &["showconf -name web", "showconf -name web -v"],
        "showcomp" => &["showcomp -name config"],
        "showlayers" => &["showlayers", "showlayers -json - < origins.json"],
        "components" => &["components"],
        "configurations" => &["configurations -json"],
        "delver" => &["delver -name config -version v1"],
        "delcomp" => &["delcomp -name config"],
        "delconf" => &["delconf -name web -force"],
        "history" => &["history -name web -limit 5"],
        "rollback" => &["rollback -name web", "rollback -name web -to 4"],
        "diff" => &["diff -name web", "diff -name web -from 3 -to 5 -files"],
        "pin" => &["pin -name code -version v7 -m \"the last that ran in the old hall\""],
        "unpin" => &["unpin -name code -version v7"],
        "refs" => &["refs 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"],
        "gc" => &["gc -n", "gc"],
        "verify" => &["verify", "verify -sample 5% -budget 10m"],
        "stat" => &["stat"],
        "audit" => &["audit -since 24h", "audit -limit 20 -json"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VERBS, parse, split};
    use super::*;

    #[test]
    fn every_verb_has_examples_and_each_is_a_command_of_it() {
        for verb in VERBS {
            assert!(!examples(verb.name).is_empty(), "{}", verb.name);
            for line in examples(verb.name) {
                let line = line.split(" < ").next().unwrap();
                let command = split(line).and_then(|words| parse(&words)).unwrap();
                assert_eq!(command.verb(), verb.name, "{line}");
            }
        }
    }
}
