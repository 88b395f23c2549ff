//! Makes the text that `status` shows.

use std::fmt::Write as _;

use deploy_store::{Size, escape, plural};

use super::{Cache, Left, Private, Reports, Status};
use crate::records::agent_report::Spare;
use crate::records::running_script::Running;

/// Maximum number of private paths that the text shows.
const PRIVATE_SHOWN: usize = 10;

impl Status {
    /// Returns the status as text for people.
    pub fn to_text(&self) -> String {
        let mut lines = Lines::default();
        self.deployed(&mut lines);
        self.fleet(&mut lines);
        self.roots(&mut lines);
        self.space(&mut lines);
        self.scripts(&mut lines);
        lines.0
    }

    /// Adds the deployed configuration and the agent to `lines`.
    fn deployed(&self, lines: &mut Lines) {
        match (&self.configuration, &self.state_error) {
            (Some(deployed), _) => {
                lines.add("configuration", &escape(&deployed.name));
                lines.add("id", &deployed.id);
                lines.add("modified", &deployed.modified.to_string());
                for layer in &deployed.layers {
                    let (name, version) = (escape(&layer.name), escape(&layer.version));
                    lines.add("layer", &format!("{name}   {version}   {}", layer.hash));
                }
            }
            (None, Some(err)) => lines.add("configuration", &format!("unknown: {err}")),
            (None, None) => lines.add("configuration", "nothing deployed yet"),
        }
        match self.agent_pid {
            Some(pid) => lines.add("agent", &format!("running, pid {pid}")),
            None => lines.add("agent", "not running"),
        }
        lines.add("placing", self.link.as_deref().map_or("unknown", |link| link));
        match (&self.confinement, &self.link) {
            (Some(sandbox), _) => lines.add("confinement", &sandbox.to_string()),
            (None, Some(_)) => lines.add("confinement", "none"),
            (None, None) => lines.add("confinement", "unknown"),
        }
    }

    /// Adds the host's name at the registry and the last report to `lines`.
    fn fleet(&self, lines: &mut Lines) {
        let Some(host) = &self.host else { return };
        let how = match (self.agent_pid, self.watching) {
            (None, _) => "",
            (_, true) => "watching",
            (_, false) => "polling",
        };
        lines.add("host", format!("{}   {how}", escape(host)).trim_end());
        let Reports { last, waiting, refused, .. } = &self.reports;
        if let Some(last) = last {
            let sent = match waiting {
                0 => "acknowledged".to_owned(),
                n => format!("{n} not acknowledged"),
            };
            lines.add("reported", &format!("{}   {sent}", last.phase));
        }
        if let Some(why) = refused {
            lines.add("refused", &escape(why));
        }
    }

    /// Adds the roots, the spare and the private paths to `lines`.
    fn roots(&self, lines: &mut Lines) {
        for root in &self.roots {
            let built = root.built.map_or_else(String::new, |built| format!("{built:.0}"));
            let mark = match (root.current, root.previous) {
                (true, _) => "current",
                (_, true) => "previous",
                _ => "",
            };
            lines.add("root", format!("{}   {built}   {mark}", root.id).trim_end());
        }
        if !self.taken_over.is_empty() {
            let text = match self.taken_over.len() {
                1 => "1 root that was here before this agent; gc -taken-over removes it".to_owned(),
                n => format!(
                    "{n} roots that were here before this agent; gc -taken-over removes them"
                ),
            };
            lines.add("taken over", &text);
            self.taken_over.iter().for_each(|id| lines.add("taken over", id));
        }
        match &self.spare {
            Some(Spare { id, ready: true }) => lines.add("spare", &format!("{id}   ready")),
            Some(Spare { id, ready: false }) => lines.add("spare", &format!("{id}   not ready")),
            None => lines.add("spare", "none"),
        }
        for Private { path, text, .. } in self.private.iter().take(PRIVATE_SHOWN) {
            lines.add("private", &format!("{}   {text}", escape(path)));
        }
        if self.private.len() > PRIVATE_SHOWN {
            let more = self.private.len() - PRIVATE_SHOWN;
            lines.add("private", &format!("and {more} more; status -json shows all"));
        }
        if let Some(placed) = self.placed {
            lines.add("last root", &placed.to_text());
        }
    }

    /// Adds the cache, the quarantine and the filesystem to `lines`.
    fn space(&self, lines: &mut Lines) {
        lines.add("cache", &self.cache.to_text());
        match self.quarantine {
            0 => {}
            1 => lines.add("quarantine", "1 file was damaged; gc removes it"),
            n => lines.add("quarantine", &format!("{n} files were damaged; gc removes them")),
        }
        let floor = match self.min_free {
            0 => String::new(),
            floor => format!(", {} are kept free by -min-free", Size(floor)),
        };
        lines.add("free", &format!("{}{floor}", Size(self.free_bytes)));
    }

    /// Adds the health gate, the hold, the failed script, the running script and the last error to
    /// `lines`.
    fn scripts(&self, lines: &mut Lines) {
        if let Some(gate) = &self.health {
            let text = escape(&gate.to_text());
            lines
                .add("health", &format!("{}   {text}   since {:.0}", escape(&gate.id), gate.since));
            gate.checks.iter().for_each(|check| lines.add("health check", &escape(check)));
        }
        if let Some(hold) = &self.hold {
            lines.add(
                "held",
                &format!("{}   since {:.0}, rolled back to {}", hold.from, hold.since, hold.to),
            );
        }
        if let Some(err) = &self.hold_error {
            lines.add("held", &escape(err));
        }
        for (name, value) in self.unsettled.iter().flat_map(Left::lines) {
            lines.add(name, &value);
        }
        if let Some(Running { id, pid, since, .. }) = &self.script {
            lines.add("script", &format!("runs for {}   since {since:.0}, pid {pid}", escape(id)));
        }
        if let Some(err) = &self.last_error {
            lines.add("last error", &escape(err));
        }
    }
}

/// The lines of the text. Each line has a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<14} {value}");
    }
}

impl Left {
    /// Returns the lines for the script that did not succeed, for its next run, and for the
    /// registry's configuration.
    fn lines(&self) -> [(&'static str, String); 3] {
        let Self { unsettled, registry } = self;
        let id = if unsettled.id.is_empty() { "unknown" } else { &unsettled.id };
        let next = match unsettled.next {
            Some(next) => format!("{next:.0}, or with sync"),
            None => "at the next poll of an agent, or with sync".to_owned(),
        };
        [
            ("unsettled", format!("{}   {}", escape(id), escape(&unsettled.to_text()))),
            ("next try", next),
            ("registry has", registry.clone().unwrap_or_else(|| "unknown".to_owned())),
        ]
    }
}

impl Cache {
    fn to_text(&self) -> String {
        let Self { blobs, layers, objects, bytes, .. } = self;
        let ratio = self.dedupe_ratio.map(|ratio| format!(", dedupe ratio {ratio:.2}"));
        let ratio = ratio.unwrap_or_default();
        let bytes = Size(*bytes);
        let [blobs, layers, objects] =
            [(*blobs, "blob"), (*layers, "extracted layer"), (*objects, "object")]
                .map(|(n, noun)| plural(n, noun));
        format!("{bytes}: {blobs}, {layers}, {objects}{ratio}")
    }
}
