//! The verbs of this program: the console's verbs, and the verbs that this program runs itself.
//! Each verb is described once, for help, completions and the man page.

use deploy_wire::command::{Flag, VERBS, Verb, component, number, switch, text, version};

const NAME: Flag = component("name", "component name");
const VERSION: Flag = version("version", "unique version id");

/// `addver`, which has more flags here than on the console.
pub const ADDVER: Verb = Verb {
    name: "addver",
    about: "upload file or directory and add it as new component version",
    flags: &[
        text(
            "dir",
            "directory to pack and upload; the archive is sorted, owned by root, and without times",
        ),
        text("file", "tar.gz file to upload, - for standard input"),
        text("hash", "instead of -file: sha256 of a file that is uploaded already"),
        NAME,
        switch("times", "with -dir: keep the times of files"),
        VERSION,
    ],
    examples: &[
        "addver -name config -version v3 -file config.tgz",
        "addver -name config -version v3 -dir ./config",
        "tar cz -C config . | deployctl addver -name config -version v3 -file -",
    ],
    changes: true,
    reads_input: false,
};

/// `get`, which the console does not have.
pub const GET: Verb = Verb {
    name: "get",
    about: "download archive of component version",
    flags: &[NAME, text("o", "file to write to (default: standard output)"), VERSION],
    examples: &[
        "get -name config -version v3 -o config.tgz",
        "get -name config -version v3 | tar tz",
    ],
    changes: false,
    reads_input: false,
};

/// `web`. Here, the verb forwards a port. On the console, it only prints an address.
pub const WEB: Verb = Verb {
    name: "web",
    about: "open the page of the registry in a browser",
    flags: &[
        switch("no-browser", "print the address, and start no browser"),
        number("port", "local port (default: any free port)"),
    ],
    examples: &["web", "web -no-browser -port 8080"],
    changes: false,
    reads_input: false,
};

/// All verbs, in the order of `help`. The console's verb `import` is left out, because another
/// program imports images.
pub fn all() -> impl Iterator<Item = &'static Verb> {
    let mine = |verb: &'static Verb| match verb.name {
        name if name == ADDVER.name => &ADDVER,
        name if name == WEB.name => &WEB,
        _ => verb,
    };
    VERBS.iter().filter(|verb| verb.name != "import").map(mine).chain(std::iter::once(&GET))
}

/// The verb called `name`.
pub fn find(name: &str) -> Option<&'static Verb> {
    all().find(|verb| verb.name == name)
}

/// The names of all verbs and subcommands.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = ["completion", "man"];
    std::iter::once("help").chain(all().map(|verb| verb.name)).chain(own)
}

/// Whether a verb or subcommand has this name.
pub fn is_verb(name: &str) -> bool {
    names().any(|verb| verb == name)
}

/// The output of `help`.
pub fn listing() -> String {
    deploy_wire::command::listing_of(all())
}

/// The output of `help` for a verb.
pub fn help(verb: &Verb) -> String {
    verb.help() + CONNECTION
}

/// A note on the flags that stand before the verb.
const CONNECTION: &str = "\nFlags of the connection (-addr, -fp, -key, -user) and -q stand before \
    the verb; deployctl -h explains them.\n";
