//! Renders `/audit`, which shows who changed what.

use deploy_wire::command::{self, Command, Since};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::AuditFilter;
use super::layout::{Nav, Page, Part, Section};
use super::widgets::{address, nothing, pill, section, table};
use crate::catalog::{AuditPage, AuditQuery, Audited};
use crate::http::problem::Problem;
use crate::registry::Registry;

/// A page shows at most this many entries.
const ENTRIES: usize = 100;
/// If a flag has this many bytes or more, a browser may break the flag's text across lines.
const LONG: usize = 32;
/// The choices of the field `Since`: a duration in the format of the verb `audit`, and the text of
/// the choice.
const SINCE: [(&str, &str); 4] =
    [("1h", "1 hour"), ("24h", "24 hours"), ("168h", "7 days"), ("720h", "30 days")];

/// Renders the screen.
pub async fn page(registry: &Registry, filter: &AuditFilter) -> Result<Page, Problem> {
    let query = AuditQuery {
        since: since(&filter.since)?,
        before: filter.before,
        who: filter.who.clone(),
        verb: filter.verb.clone(),
        name: filter.name.clone(),
    };
    let page = registry.catalog.audit_page(&query, ENTRIES).await?;
    let title = html! {
        div class="title" { h1 { "Audit" } p { "who changed what, newest first, UTC" } }
    };
    let parts =
        vec![Part::Fixed(title), Part::Fixed(form(filter)), Part::One(entries(&page, filter))];
    Ok(Page::new("Audit", Nav::Audit, parts))
}

/// Parses a time in a format that the verb `audit` reads.
fn since(text: &str) -> Result<Option<Timestamp>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let words = ["audit".to_owned(), format!("-since={text}")];
    Ok(match command::parse(&words)? {
        Command::Audit { since: Some(Since::At(time)), .. } => Some(time),
        Command::Audit { since: Some(Since::Ago(age)), .. } => {
            Some(Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN))
        }
        _ => None,
    })
}

fn form(filter: &AuditFilter) -> Markup {
    let verbs = command::VERBS.iter().filter(|verb| verb.changes).map(|verb| verb.name);
    let verbs: Vec<&str> = verbs.collect();
    let AuditFilter { since, who, verb, name, .. } = filter;
    html! {
        form class="filter" method="get" action="/audit" {
            label { "Since "
                select name="since" {
                    option value="" { "always" }
                    @for (value, text) in SINCE {
                        option value=(value) selected[value == since] { (text) }
                    }
                    @if !since.is_empty() && !SINCE.iter().any(|(value, _)| value == since) {
                        option selected { (since) }
                    }
                }
            }
            label { "Who " input name="who" value=(who) size="12" autocomplete="off"; }
            label { "Verb "
                select name="of" {
                    option value="" { "all" }
                    @for one in &verbs { option selected[one == verb] { (one) } }
                    @if !verb.is_empty() && !verbs.contains(&verb.as_str()) {
                        option selected { (verb) }
                    }
                }
            }
            label { "Name " input name="name" value=(name) size="14" autocomplete="off"; }
            button { "Show" }
        }
    }
}

/// The address of the page with the same conditions, limited to entries with numbers below
/// `before`.
fn address_before(filter: &AuditFilter, before: Option<u64>) -> String {
    let AuditFilter { since, who, verb, name, .. } = filter;
    let before = before.map(|number| number.to_string()).unwrap_or_default();
    let fields =
        [("since", since), ("who", who), ("of", verb), ("name", name), ("before", &before)];
    address("/audit", &fields.map(|(field, value)| (field, value.as_str())))
}

fn entries(page: &AuditPage, filter: &AuditFilter) -> Section {
    if page.entries.is_empty() {
        return section("audit", "Changes", &nothing(), &no_entries(page, filter));
    }
    let day = |entry: &Audited| format!("{}", entry.change.now.to_zoned(TimeZone::UTC).date());
    let days: Vec<&[Audited]> =
        page.entries.chunk_by(|one, other| day(one) == day(other)).collect();
    let below = html! {
        span { (count_entries(page.entries.len())) }
        (ways(page, filter))
    };
    let body = html! {
        div class="stack" {
            @for (at, entries) in days.iter().enumerate() {
                @let is_last = at + 1 == days.len();
                @let below = if is_last { below.clone() } else { nothing() };
                @let label = if at == 0 { "audit".to_owned() } else { format!("day-{}", day(&entries[0])) };
                @if at > 0 { h2 id={ (label) "-h" } { (day(&entries[0])) } }
                (table(&label, &head(), &rows(entries), &below))
            }
        }
    };
    section("audit", &day(&page.entries[0]), &nothing(), &body)
}

fn count_entries(number: usize) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

fn ways(page: &AuditPage, filter: &AuditFilter) -> Markup {
    html! {
        @if filter.before.is_some() { a href=(address_before(filter, None)) { "newest" } }
        @if page.older.is_some() { a href=(address_before(filter, page.older)) { "older" } }
    }
}

fn no_entries(page: &AuditPage, filter: &AuditFilter) -> Markup {
    let is_filtered = AuditFilter { before: None, ..filter.clone() } != AuditFilter::default();
    html! {
        div class="card empty" {
            @if page.older.is_some() {
                p { "The entries searched so far do not fulfil the conditions. Older entries may fulfil them." }
            } @else if is_filtered || filter.before.is_some() {
                p { "No entry fulfils the conditions. " a href="/audit" { "Show all entries" } }
            } @else {
                p { "Nothing has changed yet. Each change gets an entry here. To make the first change, type:" }
                code class="shell" { "ssh registry put -name code -version v1 < code.tgz" }
            }
            @if page.older.is_some() { div class="actions" { (ways(page, filter)) } }
        }
    }
}

fn head() -> Markup {
    html! {
        th scope="col" { "Time" } th scope="col" { "Who" } th scope="col" { "Verb" }
        th scope="col" { "What" } th scope="col" { "Result" }
    }
}

fn rows(entries: &[Audited]) -> Markup {
    html! {
        @for entry in entries {
            @let change = &entry.change;
            @let time = change.now.to_zoned(TimeZone::UTC);
            @let (verb, what) = change.command.split_once(' ').unwrap_or((&change.command, ""));
            tr {
                th scope="row" class="keep" {
                    time datetime=(format!("{:.0}", change.now)) { (time.strftime("%H:%M:%S")) }
                }
                td { (change.user)
                    small { (short_key(&change.key))
                        @if !change.address.is_empty() { " from " (change.address) } }
                }
                td { (verb.trim_end_matches(':')) }
                td class="why" {
                    // In entries that the registry itself makes, the text is a sentence, not flags.
                    @if what.starts_with('-') { (flags(what)) } @else { (what) }
                }
                td {
                    @if entry.code == 0 { "done" } @else {
                        (pill("bad", "not done"))
                        small { "exit code " (entry.code) ": " (entry.why) }
                    }
                }
            }
        }
    }
}

/// The flags of a command line. A browser breaks the line between flags, not within a short flag.
fn flags(line: &str) -> Markup {
    let line = line.strip_prefix('-').unwrap_or(line);
    html! {
        code {
            @for (place, flag) in line.split(" -").enumerate() {
                @if place > 0 { " " }
                span class=[(flag.len() < LONG).then_some("keep")] { "-" (flag) }
            }
        }
    }
}

/// The shortened fingerprint of a key, and the comment of the key.
fn short_key(key: &str) -> String {
    let (fingerprint, comment) = key.split_once(' ').unwrap_or((key, ""));
    let all: Vec<char> = fingerprint.chars().collect();
    if !fingerprint.starts_with("SHA256:") || all.len() < 20 {
        return key.to_owned();
    }
    let end: String = all[all.len() - 4..].iter().collect();
    let start: String = all[..11].iter().collect();
    format!("{start}…{end} {comment}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use deploy_wire::command::Rolling;

    use super::*;
    use crate::catalog::Change;

    fn entry(number: u64, second: i64, command: &str, code: u8) -> Audited {
        let change = Change {
            user: "<script>alert(1)</script>".to_owned(),
            key: "SHA256:abc anna@laptop".to_owned(),
            address: "10.0.0.1".to_owned(),
            command: command.to_owned(),
            now: Timestamp::from_second(second).unwrap(),
            overrides: false,
            rolling: Rolling::default(),
        };
        Audited { number, change, code, why: "frozen".to_owned() }
    }

    #[test]
    fn entries_are_grouped_by_day_and_escaped() {
        let entries_of_two_days = vec![
            entry(9, 86_400 + 3661, "bumpconf -name=shop", 0),
            entry(8, 86_399, "changeconf -name=\"<b>\"", 6),
            entry(7, 86_398, "rollout 7 halted in wave 2", 0),
        ];
        let page = AuditPage { entries: entries_of_two_days, older: Some(7) };
        let filter = AuditFilter { who: "a&b".to_owned(), ..AuditFilter::default() };
        let html = entries(&page, &filter).html.into_string();
        for text in [
            "<h2 id=\"audit-h\">1970-01-02</h2>",
            "<h2 id=\"day-1970-01-01-h\">1970-01-01</h2>",
            "<time datetime=\"1970-01-02T01:01:01Z\">01:01:01</time>",
            "&lt;script&gt;alert(1)&lt;/script&gt;<small>SHA256:abc anna@laptop from 10.0.0.1</small>",
            "<code><span class=\"keep\">-name=&quot;&lt;b&gt;&quot;</span></code>",
            "<small>exit code 6: frozen</small>",
            "<td class=\"why\">7 halted in wave 2</td>",
            "href=\"/audit?who=a%26b&amp;before=7\"",
            "<span>3 entries</span>",
        ] {
            assert!(html.contains(text), "{text} is not in {html}");
        }
        assert!(!html.contains("<script>"), "{html}");
    }

    #[test]
    fn form_keeps_the_conditions() {
        let filter = AuditFilter {
            since: "36h".to_owned(),
            verb: "rollout".to_owned(),
            name: "\"x".to_owned(),
            ..AuditFilter::default()
        };
        let html = form(&filter).into_string();
        for text in ["<option selected>36h", "<option selected>rollout", "value=\"&quot;x\""] {
            assert!(html.contains(text), "{text} is not in {html}");
        }
        assert_eq!(html.matches("selected").count(), 2, "{html}");
    }

    #[test]
    fn keys_are_shortened_and_long_flags_may_wrap() {
        let key = format!("SHA256:abcd{}wxyz anna@laptop", "0".repeat(35));
        assert_eq!(short_key(&key), "SHA256:abcd…wxyz anna@laptop");
        assert_eq!(short_key("rollout 7"), "rollout 7");
        let html = flags(&format!("-name=a -hash={}", "0".repeat(64))).into_string();
        assert!(html.contains("<span class=\"keep\">-name=a</span> <span>-hash=000"), "{html}");
    }

    #[test]
    fn times_have_the_format_of_the_verb_audit() {
        assert_eq!(since("").unwrap(), None);
        let time = since("1970-01-02T00:00:00Z").unwrap();
        assert_eq!(time, Some(Timestamp::from_second(86_400).unwrap()));
        assert!(since("36h").unwrap().unwrap() < Timestamp::now());
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn empty_trail_says_what_to_do() {
        let html = entries(&AuditPage::default(), &AuditFilter::default()).html.into_string();
        assert!(html.contains("ssh registry put"), "{html}");
        let older = AuditPage { entries: Vec::new(), older: Some(5) };
        let html = entries(&older, &AuditFilter::default()).html.into_string();
        assert!(html.contains("before=5"), "{html}");
    }
}
