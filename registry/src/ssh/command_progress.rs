//! Progress of a command, on the client's stderr: a bar where the client has a terminal, else
//! a line every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy_cli::progress::{COLUMNS, Display, Form, LOOK_EVERY, Told, over};
use deploy_store::Meter;
use tokio::time::{Instant, sleep_until};

use crate::ssh::channel::Terminal;
use crate::ssh::channel_io::{Gone, Incoming};

/// Widths of terminals that are believed.
const FEWEST_COLUMNS: usize = 20;
const MOST_COLUMNS: usize = 500;
/// Time between the end of the bar and the answer: of what comes at once `ssh` prints standard
/// output first, and the answer would stand in the bar.
const APART: Duration = Duration::from_millis(50);

/// What form a client wants: what its environment `asked` for, else what its terminal suggests.
pub fn form(terminal: Option<Terminal>, asked: Option<usize>) -> Form {
    let columns = terminal.map(|terminal| usize::try_from(terminal.columns).unwrap_or(COLUMNS));
    match (asked, columns) {
        (Some(0), _) => Form::Nothing,
        (None, None) => Form::Lines,
        (None, Some(0)) => Form::Bar(COLUMNS),
        (Some(columns), _) | (None, Some(columns)) => Form::Bar(believed(columns)),
    }
}

fn believed(columns: usize) -> usize {
    columns.clamp(FEWEST_COLUMNS, MOST_COLUMNS)
}

/// Progress of one command.
#[derive(Debug)]
pub struct Progress {
    /// What the command counts with.
    pub meter: Arc<Meter>,
    display: Display,
    is_shown: bool,
    drawn: usize,
    /// When to look at the meter.
    due: Instant,
}

impl Progress {
    /// Of a command that begins now.
    pub fn new(form: Form) -> Self {
        let now = Instant::now();
        Self {
            meter: Arc::default(),
            display: Display::new(form, now.into_std()),
            is_shown: form != Form::Nothing,
            drawn: 0,
            due: now + LOOK_EVERY,
        }
    }

    /// Waits until there is something to show. It can be dropped and begun again at any time.
    pub async fn next(&mut self) -> Bytes {
        if !self.is_shown {
            return std::future::pending().await;
        }
        loop {
            sleep_until(self.due).await;
            let now = Instant::now();
            self.due = now + LOOK_EVERY;
            if let Some(told) = self.display.look(self.meter.reading(), now.into_std()) {
                return self.bytes(told);
            }
        }
    }

    /// Ends progress on the client's side, before the answer goes there.
    pub async fn end(&mut self, client: &mut Incoming) -> Result<(), Gone> {
        let told = self.display.end(self.meter.reading(), Instant::now().into_std());
        let Some(told) = told else { return Ok(()) };
        let is_bar = matches!(told, Told::Bar(_));
        client.send_error(self.bytes(told)).await?;
        if is_bar {
            tokio::time::sleep(APART).await;
        }
        Ok(())
    }

    fn bytes(&mut self, told: Told) -> Bytes {
        match told {
            Told::Line(line) => (line + "\n").into(),
            Told::Bar(text) => over(&text, &mut self.drawn).into(),
        }
    }

    /// Waits for `work` and shows its progress meanwhile.
    pub async fn beside<T>(
        &mut self,
        client: &mut Incoming,
        work: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.end(client).await?;
                    return Ok(done);
                }
                text = self.next() => client.send_error(text).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_what_it_wants() {
        let terminal = |columns| Some(Terminal { columns, colours: true });
        for (terminal, asked, wanted) in [
            (None, None, Form::Lines),
            (None, Some(0), Form::Nothing),
            (None, Some(100), Form::Bar(100)),
            (None, Some(usize::MAX), Form::Bar(500)),
            (terminal(0), None, Form::Bar(80)),
            (terminal(132), None, Form::Bar(132)),
            (terminal(1), None, Form::Bar(20)),
            (terminal(132), Some(0), Form::Nothing),
        ] {
            assert_eq!(form(terminal, asked), wanted);
        }
    }
}
