//! `deploy-from-docker`: imports a container image into a registry. See ARCHITECTURE.md.

mod flags;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use deploy_cli::Names;
use deploy_cli::progress::{Shown, Stderr};
use deploy_from_docker::import::{Destination, Event, Options, Source, Summary, import};
use deploy_from_docker::to::directory::Into;
use deploy_from_docker::to::remote_registry::Remote;
use deploy_from_docker::{Error, Result, report};
use deploy_wire::exit;
use flags::Flags;

fn main() -> ExitCode {
    if let Some(code) = deploy_cli::early(std::env::args_os(), Flags::described, Names::None) {
        return code;
    }
    let flags = match Flags::read(std::env::args_os()) {
        Ok(flags) => flags,
        Err(err) => return deploy_cli::exit(&err),
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&format!("{err}{}\n", err.hint()));
            err.code().into()
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    let begun = Instant::now();
    if flags.input.is_none() && io::stdin().is_terminal() {
        let text = "there is no image on standard input: pipe one in, as in \
                    docker save app:1.4 | deploy-from-docker, or name a file";
        return Err(Error::Refused { text: text.to_owned(), code: exit::USAGE });
    }
    let options = Options { cache: flags.cache()?, ..flags.options() };
    let mut stdin = io::stdin().lock();
    let source = match &flags.input {
        Some(path) => Source::Path(path),
        None => Source::Stream(&mut stdin),
    };
    let mut destination: Box<dyn Destination> = match &flags.into {
        Some(dir) => Box::new(Into::new(dir, options.compression)?),
        None => Box::new(connect(flags)?),
    };
    let shown = Shown::new(&options.meter, flags.q);
    let done = import(source, &options, &mut *destination, &mut |event| {
        if !flags.q {
            complain(&text(&event));
        }
    });
    drop(shown);
    let summary = done?;
    print(&summary, options.dry_run)?;
    if !flags.q {
        complain(&report::closing(&summary, options.dry_run, begun.elapsed()));
    }
    Ok(())
}

fn connect(flags: &Flags) -> Result<Remote> {
    let refused = |text: String, code| Error::Refused { text, code };
    let connect = flags.connect().map_err(|refusal| refused(refusal.text, refusal.code))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|err| refused(format!("start threads: {err}"), exit::FAILED))?;
    Remote::connect(runtime, &connect, flags.overrides)
}

/// The text of an event. The Go importer also prints the lines about uploads and the configuration.
fn text(event: &Event<'_>) -> String {
    match event {
        Event::Sending(number, all, component) => {
            format!("uploading {number}/{all}: \"{component}\"\n")
        }
        Event::Forgotten(why) => format!("{why}\n"),
        Event::Updating(name) => format!("updating configuration \"{name}\"\n"),
    }
}

/// Prints the registry's answer, or the plan, to standard output.
fn print(summary: &Summary, dry_run: bool) -> Result<()> {
    let text = if dry_run { report::plan(summary) } else { summary.said.clone() };
    deploy_cli::print(text.as_bytes()).map_err(|err| Error::Refused {
        text: format!("print the answer: {err}"),
        code: exit::FAILED,
    })
}

/// Prints to standard error. Text from an archive or the registry is escaped, so that it cannot
/// control the terminal.
fn complain(text: &str) {
    let lines: Vec<String> = text.lines().map(deploy_store::escape).collect();
    // An error of this write is ignored, because it cannot be reported anywhere else.
    let _ = Stderr.write_all((lines.join("\n") + "\n").as_bytes());
}
