//! Adds names from a registry to shell completions. The shell's script runs a hidden subcommand of
//! the program to get the names. If the unfinished word cannot be a name, clap's completions apply.

use clap_complete::Shell;

/// The name of the hidden subcommand. Its arguments are the words that the user has typed so far;
/// the last word is unfinished. The subcommand prints complete words, one on a line. It fails if
/// the last word cannot be a name.
pub const COMPLETE_NAMES: &str = "complete-names";

/// Whether a program can complete names from a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// The program completes no names.
    None,
    /// The shell gets names from the program through [`COMPLETE_NAMES`].
    Asked,
}

/// The function for bash. Bash splits words at colons and equals signs, and replaces only the part
/// after the last of these signs.
const BASH: &str = r#"
_NAME_names() {
    local words word typed= cut i
    words=$(NAME complete-names "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null </dev/null) || {
        _NAME "$@"
        return
    }
    for ((i = COMP_CWORD; i > 0; i--)); do
        typed=${COMP_WORDS[i]}$typed
        [[ ${COMP_WORDS[i]} == [:=] || ${COMP_WORDS[i-1]} == [:=] ]] || break
    done
    cut=${COMP_WORDS[COMP_CWORD]}
    [[ $cut == [:=] ]] && cut=
    cut=${typed%"$cut"}
    COMPREPLY=()
    # Bash must not add file names.
    compopt +o default +o bashdefault 2>/dev/null
    [[ $words == *: ]] && compopt -o nospace 2>/dev/null
    while IFS= read -r word; do
        [[ -n $word ]] && COMPREPLY+=("$(printf %q "${word#"$cut"}")")
    done <<<"$words"
    return 0
}
"#;

const ZSH: &str = r#"
    local names
    if names=$(NAME complete-names "${(@Q)words[2,CURRENT]}" 2>/dev/null </dev/null); then
        if [[ $names == *: ]]; then
            compadd -S '' -- ${(f)names}
        else
            compadd -- ${(f)names}
        fi
        return
    fi
"#;

const FISH: &str = r#"
function __NAME_names
    set -l words (commandline -opc)
    set -e words[1]
    set -l last (commandline -ct)
    test -n "$last"; or set last ""
    NAME complete-names $words $last 2>/dev/null </dev/null
end

"#;

/// Adds the completion of names to `script`, which has clap's completions for the program `name`.
pub fn add(script: &str, shell: Shell, name: &str) -> String {
    let ours = |text: &str| text.replace("NAME", name);
    match shell {
        Shell::Bash => {
            // In clap's script, the first lines define a function, and the last lines register this
            // function.
            let by_us = format!("complete -F _{name}_names ");
            let script = script.replace(&format!("complete -F _{name} "), &by_us);
            script + &ours(BASH)
        }
        Shell::Zsh => {
            let begin = format!("_{name}() {{\n");
            script.replacen(&begin, &(begin.clone() + ours(ZSH).trim_start_matches('\n')), 1)
        }
        Shell::Fish => {
            let asks = format!(" -r -f -a \"(__{name}_names)\"");
            let line = |line: &str| match line.strip_suffix(" -r -f") {
                Some(line) => format!("{line}{asks}\n"),
                None => format!("{line}\n"),
            };
            ours(FISH).trim_start_matches('\n').to_owned()
                + &script.lines().map(line).collect::<String>()
        }
        _ => script.to_owned(),
    }
}
