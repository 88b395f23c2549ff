//! Combines the integration tests of this crate in one program. With one program per file, each
//! program would have to be linked with all libraries.

mod backup;
mod bench;
mod cli;
mod confined;
mod cycle;
mod fleet;
mod go_readme;
mod health;
mod hostile;
mod kept_roots;
mod kill;
mod kill_engine;
mod messages;
mod mounts;
mod operator;
mod progress;
mod random;
mod redeploy;
mod repair;
mod script;
mod site;
mod source;
mod state_file;
mod switch;
mod touched_files;
mod unsettled;
mod whole_walk;
