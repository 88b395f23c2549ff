//! Makes pieces of HTML and of text for the screens of the fleet, of hosts and of rollouts.

use maud::{Markup, html};

use super::widgets::{host_address, icon};

/// [`last_lines`] returns at most this many lines.
const LAST_LINES: usize = 3;
/// [`last_lines`] and [`first_line`] cut each line after this many characters.
const LONGEST_LINE: usize = 200;

/// A list item about a problem that needs attention. `class` is `bad`, `warn` or `good`; `link` and
/// `output` may be empty.
pub fn need(class: &str, body: &Markup, link: &Markup, output: &str) -> Markup {
    let shape = if class == "bad" { "failed" } else { class };
    html! {
        li class={ "need " (class) } {
            (icon(shape))
            div { (body) }
            (link)
            @if !output.is_empty() { pre { (output) } }
        }
    }
}

/// Links to the `first` of `all` hosts. If there are more hosts, a link to the address `others`
/// follows.
pub fn some_hosts(first: &[String], all: u64, others: &str) -> Markup {
    let more = all.saturating_sub(first.len() as u64);
    html! {
        @for (place, host) in first.iter().enumerate() {
            @if place > 0 { ", " }
            a href=(host_address(host)) { (host) }
        }
        @if more > 0 { " " a href=(others) { "and " (more) " more" } }
    }
}

/// The last non-blank lines of an output. Control characters other than tabs are removed.
pub fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    last.iter().map(|line| shown_line(line)).collect::<Vec<_>>().join("\n")
}

/// The first line of a text. A line longer than `LONGEST_LINE` is cut.
pub fn first_line(text: &str) -> String {
    shown_line(text.lines().next().unwrap_or_default())
}

fn shown_line(line: &str) -> String {
    let mut shown: String =
        line.chars().filter(|c| !c.is_control() || *c == '\t').take(LONGEST_LINE).collect();
    if line.chars().count() > LONGEST_LINE {
        shown.push('…');
    }
    shown
}

/// A phase or a reason with spaces instead of underscores.
pub fn spaced(word: &str) -> String {
    word.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_of_an_output_are_shown() {
        let output = "one\ntwo\n\nthree\n\u{1b}[31mfour <b>\u{0}\n\n";
        assert_eq!(last_lines(output), "two\nthree\n[31mfour <b>");
        assert_eq!(last_lines(""), "");
        assert_eq!(first_line(&"x".repeat(300)).chars().count(), 201);
    }

    #[test]
    fn list_of_hosts_links_to_the_others() {
        let first = ["<script>".to_owned(), "b".to_owned()];
        let html = some_hosts(&first, 5, "/hosts?only=failed").into_string();
        assert!(html.contains("&lt;script&gt;</a>, <a href=\"/hosts/b\">b</a>"), "{html}");
        assert!(html.contains("<a href=\"/hosts?only=failed\">and 3 more</a>"), "{html}");
        assert!(!some_hosts(&first, 2, "/").into_string().contains("more"));
    }
}
