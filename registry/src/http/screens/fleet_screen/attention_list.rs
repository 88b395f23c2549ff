//! Renders the list of what needs attention.

use maud::{Markup, html};

use super::attention::{Attention, Failure, FullDisk, NAMED};
use crate::http::screens::need::{first_line, need, some_hosts, spaced};
use crate::http::screens::rollout_parts::stopped;
use crate::http::screens::widgets::{
    address, ago, count, host_address, nothing, rollout_address, size,
};

impl Attention {
    /// The list. If nothing needs attention, the list has one line that says so.
    pub(super) fn list(&self) -> Markup {
        let parts = [
            self.stopped(),
            self.failures(),
            self.silent(),
            self.duplicates(),
            self.damaged(),
            self.disk.map_or_else(nothing, full_disk),
        ];
        let is_calm = parts.iter().all(|part| part.0.is_empty());
        html! {
            ul class="needs" {
                @for part in &parts { (part) }
                @if is_calm {
                    (need("good", &html! { "Nothing needs attention." }, &nothing(), ""))
                }
            }
        }
    }

    fn stopped(&self) -> Markup {
        html! {
            @for rollout in &self.stopped {
                @let class = if rollout.status == "halted" { "bad" } else { "warn" };
                @let text = html! {
                    b { (rollout.configuration) } ": rollout " (rollout.number) " " (stopped(rollout))
                    small { (rollout.status) " " (ago(rollout.since)) }
                };
                @let link = html! {
                    a href=(rollout_address(&rollout.configuration, rollout.number)) {
                        "rollout " (rollout.number)
                    }
                };
                (need(class, &text, &link, ""))
            }
        }
    }

    fn failures(&self) -> Markup {
        let others = html! {
            b { (count(self.other_failures, "more deploy")) " failed" } " in other ways"
        };
        let link = html! { a href="/hosts?only=failed" { "all failed hosts" } };
        html! {
            @for one in &self.failures { (failure(one)) }
            @if self.other_failures > 0 { (need("bad", &others, &link, "")) }
        }
    }

    fn silent(&self) -> Markup {
        let Some(longest) = self.silent.hosts.first() else { return nothing() };
        let list = "/hosts?only=absent";
        let names: Vec<String> = self.silent.hosts.iter().map(|host| host.host.clone()).collect();
        let text = html! {
            @if self.silent.count == 1 {
                b { a href=(host_address(&longest.host)) { (longest.host) } } " is silent"
            } @else {
                b { (self.silent.count) " hosts are silent" } ": "
                (some_hosts(&names, self.silent.count, list))
            }
            small {
                @if self.silent.count > 1 { "the longest: " (longest.host) ", " }
                "last seen " (ago(longest.last_seen))
                @if let Some(runs) = longest.runs {
                    " · runs " (longest.configuration) " state " (runs)
                }
            }
        };
        let link = html! { a href=(list) { "silent hosts" } };
        need("warn", &text, &link, "")
    }

    fn duplicates(&self) -> Markup {
        let Some(first) = self.duplicates.first() else { return nothing() };
        let named = &self.duplicates[..self.duplicates.len().min(NAMED)];
        let text = html! {
            @if self.duplicates.len() == 1 {
                b { a href=(host_address(first)) { (first) } } ": two agents report under this name"
            } @else {
                b { (self.duplicates.len()) " names have two agents each" } ": "
                (some_hosts(named, self.duplicates.len() as u64, "/hosts"))
            }
            small { "give one agent another name with -host; rollouts leave out duplicate hosts" }
        };
        need("warn", &text, &html! { a href=(host_address(first)) { (first) } }, "")
    }

    fn damaged(&self) -> Markup {
        if self.damaged == 0 {
            return nothing();
        }
        let is_one = self.damaged == 1;
        let versions: Vec<String> = self
            .damaged_versions
            .iter()
            .map(|(component, version)| format!("{component} {version}"))
            .collect();
        let text = html! {
            b { (count(self.damaged, "file")) @if is_one { " is" } @else { " are" } " damaged" }
            @if !versions.is_empty() { ": " (versions.join(", ")) }
            small { "upload the same archive again; the registry restores the file" }
        };
        need("warn", &text, &html! { a href="/store" { "store" } }, "")
    }
}

/// Deploys that failed in the same way.
pub fn failure(failure: &Failure) -> Markup {
    let Failure { configuration, state, reason, exit_code, since, hosts, count, .. } = failure;
    let Some(first) = hosts.first() else { return nothing() };
    let state_text = state.map(|state| state.to_string()).unwrap_or_default();
    let others = address("/hosts", &[("name", configuration), ("only", "failed")]);
    let text = html! {
        @if *count == 1 {
            b { a href=(host_address(first)) { (first) } " failed" }
        } @else {
            b { (count) " hosts failed in the same way" } ": " (some_hosts(hosts, *count, &others))
        }
        @if !failure.message.is_empty() { small { (first_line(&failure.message)) } }
        small {
            (configuration)
            @if !state_text.is_empty() { " state " (state_text) }
            @if let Some(reason) = reason { " · " (spaced(reason)) }
            @if let Some(code) = exit_code { ", exit code " (code) }
            @if let Some(since) = since { " · " (ago(*since)) }
        }
    };
    let link = html! { a href={ (host_address(first)) "#output" } { "output of " (first) } };
    need("bad", &text, &link, &failure.output)
}

fn full_disk(disk: FullDisk) -> Markup {
    let FullDisk { free, all, is_full } = disk;
    let (class, title) =
        if is_full { ("bad", "The disk is full") } else { ("warn", "The disk is nearly full") };
    let text = html! {
        b { (title) } ": " (size(free)) " of " (size(all)) " are free"
        small {
            @if is_full { "the registry refuses uploads; " }
            "to remove unneeded files, type " code { "ssh registry gc" }
        }
    };
    need(class, &text, &html! { a href="/store" { "store" } }, "")
}

#[cfg(test)]
mod tests {
    use super::super::super::rollout_parts::tests::rollout;
    use super::super::attention::{Silent, SilentHost, grouped};
    use super::*;
    use crate::fleet::convergence::Part;
    use crate::verbs::fleet_counts::tests::seen;
    use jiff::Timestamp;

    #[test]
    fn fleet_without_problems_has_one_line() {
        let html = Attention::default().list().into_string();
        assert!(html.contains("Nothing needs attention.") && html.matches("<li").count() == 1);
    }

    #[test]
    fn each_kind_of_problem_has_a_line() {
        let mut failed = seen("web-1", "", Part::Failed);
        failed.host.message = "<script>alert(1)</script>".to_owned();
        failed.exit_code = Some(7);
        let mut failures = grouped(&[failed]);
        "</pre><script>".clone_into(&mut failures[0].output);
        let silent = SilentHost {
            host: "db-03".to_owned(),
            last_seen: Timestamp::UNIX_EPOCH,
            configuration: "billing".to_owned(),
            runs: Some(41),
        };
        let attention = Attention {
            stopped: vec![rollout("halted", Vec::new())],
            failures,
            other_failures: 3,
            silent: Silent { hosts: vec![silent], count: 1 },
            duplicates: vec!["web-40".to_owned()],
            damaged: 2,
            damaged_versions: vec![("code".to_owned(), "v91".to_owned())],
            disk: Some(FullDisk { free: 1 << 20, all: 1 << 30, is_full: false }),
        };
        let html = attention.list().into_string();
        for text in [
            "rollout 7 halted in wave 1 of 2: &lt;script&gt;",
            "web-1</a> failed</b><small>&lt;script&gt;alert(1)&lt;/script&gt;</small>",
            "web state 2, exit code 7",
            "<pre>&lt;/pre&gt;&lt;script&gt;</pre>",
            "3 more deploys failed",
            "db-03</a></b> is silent",
            "runs billing state 41",
            "two agents report under this name",
            "2 files are damaged</b>: code v91",
            "The disk is nearly full</b>: 1 MiB of 1 GiB are free",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
        assert!(!html.contains("<script>") && !html.contains("Nothing needs"), "{html}");
    }
}
