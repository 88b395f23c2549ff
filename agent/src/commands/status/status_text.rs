//! What `status` tells people.

use std::fmt::Write as _;

use deploy_store::{Size, escape};

use super::{Cache, Left, Private, Status};
use crate::records::agent_report::Spare;
use crate::records::running_script::Running;

/// Private paths that are named for people.
const PRIVATE_SHOWN: usize = 10;

impl Status {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<14} {value}");
        };
        match (&self.configuration, &self.state_error) {
            (Some(deployed), _) => {
                line("configuration", &escape(&deployed.name));
                line("id", &deployed.id);
                line("modified", &deployed.modified.to_string());
                for layer in &deployed.layers {
                    let (name, version) = (escape(&layer.name), escape(&layer.version));
                    line("layer", &format!("{name}   {version}   {}", layer.hash));
                }
            }
            (None, Some(err)) => line("configuration", &format!("unknown: {err}")),
            (None, None) => line("configuration", "nothing deployed yet"),
        }
        match self.agent_pid {
            Some(pid) => line("agent", &format!("running, pid {pid}")),
            None => line("agent", "not running"),
        }
        line("placing", self.link.as_deref().map_or("unknown", |link| link));
        match (&self.confinement, &self.link) {
            (Some(walls), _) => line("confinement", &walls.to_string()),
            (None, Some(_)) => line("confinement", "none"),
            (None, None) => line("confinement", "unknown"),
        }
        for root in &self.roots {
            let built = root.built.map_or_else(String::new, |built| format!("{built:.0}"));
            let mark = match (root.current, root.previous) {
                (true, _) => "current",
                (_, true) => "previous",
                _ => "",
            };
            line("root", format!("{}   {built}   {mark}", root.id).trim_end());
        }
        if !self.taken_over.is_empty() {
            let n = self.taken_over.len();
            let told =
                format!("{n} roots that were here before this agent; gc -taken-over removes them");
            line("taken over", &told);
            self.taken_over.iter().for_each(|id| line("taken over", id));
        }
        match &self.spare {
            Some(Spare { id, ready: true }) => line("spare", &format!("{id}   ready")),
            Some(Spare { id, ready: false }) => line("spare", &format!("{id}   not ready")),
            None => line("spare", "none"),
        }
        for Private { path, text, .. } in self.private.iter().take(PRIVATE_SHOWN) {
            line("private", &format!("{}   {text}", escape(path)));
        }
        if self.private.len() > PRIVATE_SHOWN {
            let more = self.private.len() - PRIVATE_SHOWN;
            line("private", &format!("and {more} more; status -json has all"));
        }
        if let Some(placed) = self.placed {
            line("last root", &placed.to_text());
        }
        line("cache", &self.cache.to_text());
        if self.quarantine > 0 {
            line("quarantine", &format!("{} files were damaged; gc removes them", self.quarantine));
        }
        let floor = match self.min_free {
            0 => String::new(),
            floor => format!(", {} are to stay free", Size(floor)),
        };
        line("free", &format!("{}{floor}", Size(self.free_bytes)));
        if let Some(hold) = &self.hold {
            line(
                "held",
                &format!("{}   since {:.0}, rolled back to {}", hold.from, hold.since, hold.to),
            );
        }
        if let Some(err) = &self.hold_error {
            line("held", &escape(err));
        }
        for (name, value) in self.unsettled.iter().flat_map(Left::lines) {
            line(name, &value);
        }
        if let Some(Running { id, pid, since, .. }) = &self.script {
            line("script", &format!("runs for {}   since {since:.0}, pid {pid}", escape(id)));
        }
        if let Some(err) = &self.last_error {
            line("last error", &escape(err));
        }
        text
    }
}

impl Left {
    /// What failed, when it is tried again, and what the registry wants.
    fn lines(&self) -> [(&'static str, String); 3] {
        let Self { unsettled, registry } = self;
        let id = if unsettled.id.is_empty() { "unknown" } else { &unsettled.id };
        let next = match unsettled.next {
            Some(next) => format!("{next:.0}, or with sync"),
            None => "at the next look, or with sync, when an agent runs".to_owned(),
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
        format!("{bytes}: {blobs} blobs, {layers} extracted layers, {objects} objects{ratio}")
    }
}
