//! `web`: opens the page of the registry in a browser, through an ssh connection.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use deploy_wire::client::Client;
use deploy_wire::command::{Command, Refusal, read_flags};
use deploy_wire::exit;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Duration, sleep};

use crate::flags::Flags;
use crate::verbs::WEB;
use crate::{complain, show};

/// The interval between checks whether the connection to the registry is lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How to open the page.
#[derive(Debug, PartialEq, Eq)]
pub struct Web {
    /// The local port; 0 for any free port.
    port: u16,
    /// Whether to start a browser.
    starts_browser: bool,
}

/// Reads the flags. Returns `None` if the user asks for help.
pub fn parse(words: &[String]) -> Result<Option<Web>, Refusal> {
    let Some(given) = read_flags(&WEB, words)? else { return Ok(None) };
    let last = |flag: &str| given.iter().rev().find(|(name, _)| *name == flag);
    let port = last("port").map_or(Ok(0), |(_, value)| value.parse());
    let port = port.map_err(|_| Refusal::usage("-port must be a number below 65536".to_owned()))?;
    let no_browser = last("no-browser").is_some_and(|(_, value)| value == "true");
    Ok(Some(Web { port, starts_browser: !no_browser }))
}

/// Serves the page on a local port, until a signal arrives or the connection is lost.
pub async fn run(flags: &Flags, web: &Web) -> Result<u8> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let client = Arc::new(Client::connect(&flags.connect()?).await?);
    // Only programs of this host reach the port.
    let listener = TcpListener::bind(("127.0.0.1", web.port)).await;
    let listener = listener.with_context(|| format!("listen on port {}", web.port))?;
    let port = listener.local_addr().context("listen on a local port")?.port();
    let command = Command::Web { port: Some(port), json: true };
    let answer = client.exec(&command.to_string()).await?;
    if answer.code != exit::OK || answer.stdout.is_empty() {
        return show(&answer);
    }
    let address = address(&answer.stdout)?;
    if !flags.q {
        complain("The page is open until you press ^C:\n");
    }
    deploy_cli::print(format!("{address}\n").as_bytes()).context("print the address")?;
    if web.starts_browser
        && let Err(err) = open::that_detached(&address)
    {
        complain(&format!("cannot start a browser ({err}); open the address yourself\n"));
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept a connection of the browser")?;
                let client = Arc::clone(&client);
                tokio::spawn(async move {
                    if let Err(err) = client.forward_to_page(stream).await {
                        complain(&format!("the registry refuses a connection to the page: {err}\n"));
                    }
                });
            }
            () = sleep(LOOK_EVERY) => {
                if !client.is_alive() {
                    bail!("the connection to the registry is lost; run deployctl web again");
                }
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    client.disconnect().await;
    Ok(exit::OK)
}

/// Reads the address of the page from the registry's answer.
fn address(answer: &[u8]) -> Result<String> {
    let document: Value = serde_json::from_slice(answer).context("read the registry's answer")?;
    let address = document["address"].as_str();
    let is_local = |address: &&str| address.starts_with("http://localhost:");
    // The program starts a browser with this text, so it accepts only an address of this host.
    let address =
        address.filter(is_local).ok_or_else(|| anyhow!("the registry's answer has no address"))?;
    Ok(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_choose_port_and_browser() {
        let read = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            parse(&words)
        };
        assert_eq!(read("").unwrap(), Some(Web { port: 0, starts_browser: true }));
        let web = read("-no-browser -port 9000").unwrap();
        assert_eq!(web, Some(Web { port: 9000, starts_browser: false }));
        assert!(read("-port x").is_err() && read("-port 70000").is_err());
        assert_eq!(read("-h").unwrap(), None);
    }

    #[test]
    fn browser_gets_only_local_addresses() {
        assert!(address(br#"{"address": "http://localhost:1/login?token=x"}"#).is_ok());
        for bad in [r#"{"address": "http://evil/"}"#, "{}", "x", r#"{"address": "file:///etc"}"#] {
            assert!(address(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
