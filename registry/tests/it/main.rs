//! The integration tests of this crate, as one program. With one program for each file, each
//! program would link all libraries.

mod api;
mod bench;
mod broken_channels;
mod certificates;
mod clients;
mod damaged_catalogue;
mod database;
mod fleet;
mod fleet_kills;
mod full_disk;
mod go_import;
mod histories_thinned;
mod hostile;
mod images;
mod init;
mod keeping;
mod large_page;
mod login;
mod openssh;
mod openssh_process;
mod openssh_prompt;
mod page_figures;
mod progress;
mod prompt_tmux;
mod put;
mod raw;
mod rig;
mod rollouts;
mod safeguards;
mod server_catalogue;
mod sftp_packets;
mod slow_readers;
mod transcript;
mod units;
