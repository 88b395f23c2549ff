//! Shows the progress of a command on the client's stderr. By default, the progress is a bar on a
//! terminal, and a line every ten seconds without a terminal.

use std::sync::Arc;

use bytes::Bytes;
use deploy_cli::progress::{COLUMNS, Display, Form, LOOK_EVERY, Told, over};
use deploy_store::Meter;
use tokio::time::{Instant, sleep_until};

use super::context::Terminal;

/// Smallest width in columns. For narrower terminals, the server uses this width.
const FEWEST_COLUMNS: usize = 20;
/// Largest width in columns. For wider terminals, the server uses this width.
const MOST_COLUMNS: usize = 500;
/// The form of progress for a client. If the client's environment asks for a form (`asked`), the
/// client gets this form. Otherwise, the client's terminal decides.
pub fn form(terminal: Option<Terminal>, asked: Option<usize>) -> Form {
    let columns = terminal.map(|terminal| usize::try_from(terminal.columns).unwrap_or(COLUMNS));
    match (asked, columns) {
        (Some(0), _) => Form::Nothing,
        (None, None) => Form::Lines,
        (None, Some(0)) => Form::Bar(COLUMNS),
        (Some(columns), _) | (None, Some(columns)) => Form::Bar(clamp_columns(columns)),
    }
}

fn clamp_columns(columns: usize) -> usize {
    columns.clamp(FEWEST_COLUMNS, MOST_COLUMNS)
}

/// The progress of one command.
#[derive(Debug)]
pub struct Progress {
    /// The meter with which the command counts its progress.
    pub meter: Arc<Meter>,
    display: Display,
    is_shown: bool,
    drawn: usize,
    /// When to read the meter next.
    due: Instant,
}

impl Progress {
    /// The progress of a command that begins now.
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

    /// Waits until there is something to show. The future may be dropped at any time.
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

    /// The last text to show, if there is one, and whether the text belongs to a bar.
    pub fn last(&mut self) -> Option<(Bytes, bool)> {
        let told = self.display.end(self.meter.reading(), Instant::now().into_std())?;
        let is_bar = matches!(told, Told::Bar(_));
        Some((self.bytes(told), is_bar))
    }

    fn bytes(&mut self, told: Told) -> Bytes {
        match told {
            Told::Line(line) => (line + "\n").into(),
            Told::Bar(text) => over(&text, &mut self.drawn).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_chooses_the_form_of_progress() {
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
