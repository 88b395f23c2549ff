//! Makes small pieces of HTML, and addresses, that several screens use.

use deploy_store::Size;
use jiff::Timestamp;
use maud::{Markup, html};

use super::layout::Section;

/// A section with a heading. `beside` stands beside the heading.
pub fn section(id: &'static str, heading: &str, beside: &Markup, body: &Markup) -> Section {
    let heading_id = format!("{id}-h");
    let html = html! {
        section id=(id) aria-labelledby=(heading_id) {
            @if beside.0.is_empty() {
                h2 id=(heading_id) { (heading) }
            } @else {
                div class="head" { h2 id=(heading_id) { (heading) } (beside) }
            }
            (body)
        }
    };
    Section { id, html }
}

/// A table in a card. `label` is the id of the section's heading without the ending `-h`. `below`,
/// such as a link to the next page, stands below the table.
pub fn table(label: &str, head: &Markup, rows: &Markup, below: &Markup) -> Markup {
    let label = format!("{label}-h");
    html! {
        div class="card" {
            div class="scroll" tabindex="0" role="group" aria-labelledby=(label) {
                table { thead { tr { (head) } } tbody { (rows) } }
            }
            @if !below.0.is_empty() { div class="pages" { (below) } }
        }
    }
}

/// Empty HTML.
pub fn nothing() -> Markup {
    html! {}
}

/// A time. The text in the HTML is the absolute time, so that a section does not change while time
/// passes. The page's script shows how long ago the time was.
pub fn ago(time: Timestamp) -> Markup {
    let time = format!("{time:.0}");
    html! { time class="ago" datetime=(time) { (time) } }
}

/// The end of a period. The page's script shows how much time is left.
pub fn until(time: Timestamp) -> Markup {
    let time = format!("{time:.0}");
    html! { span data-until=(time) { "until " (time) } }
}

/// A count with its noun, such as `1 host` or `3 hosts`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A size in a form for people, such as `3 MiB`.
pub fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// The icon of a result: `good`, `failed`, `working`, `offered`, `held`, `none` or `warn`. Screen
/// readers skip the icon, because a text says the same.
pub fn icon(name: &str) -> Markup {
    html! { svg aria-hidden="true" { use href={ "#i-" (name) } {} } }
}

/// A short word in a frame. `class` is `good`, `work`, `bad`, `warn` or `off`.
pub fn pill(class: &str, text: &str) -> Markup {
    html! { span class={ "pill " (class) } { (text) } }
}

/// A bar of parts. Each part has a class (`good`, `work`, `bad`, `warn`, `idle`) and a length.
/// `total` is the length of the bar. Screen readers skip the bar, because a text beside the bar
/// says the same.
pub fn bar(class: &str, parts: &[(&str, u64)], total: u64) -> Markup {
    // Hundredths of a percent fit into 64 bits for any fleet, and for sizes up to 1 PiB.
    let share = |number: u64| number.saturating_mul(10_000) / total.max(1);
    let text = |share: u64| format!("{}.{:02}", share / 100, share % 100);
    let mut begin = 0;
    let rects = parts.iter().filter(|(_, number)| *number > 0).map(|(class, number)| {
        let (x, width) = (share(begin), share(begin + number) - share(begin));
        begin += number;
        (class, text(x), text(width))
    });
    let rects: Vec<_> = rects.collect();
    html! {
        svg class={ "bar " (class) } viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            @for (class, x, width) in rects {
                rect class=(class) x=(x) width=(width) height="8" {}
            }
        }
    }
}

/// A part of an address, percent-encoded.
pub fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// The address of a host.
pub fn host_address(host: &str) -> String {
    format!("/hosts/{}", encoded(host))
}

/// The address of a configuration.
pub fn configuration_address(name: &str) -> String {
    format!("/configurations/{}", encoded(name))
}

/// The address of a component.
pub fn component_address(name: &str) -> String {
    format!("/components/{}", encoded(name))
}

/// The address of a rollout.
pub fn rollout_address(name: &str, number: u64) -> String {
    format!("/rollouts/{}/{number}", encoded(name))
}

/// The address of a screen with these fields. Fields without a value add nothing.
pub fn address(path: &str, fields: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty()));
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The address of the page that confirms a command. `verb` has the verb and its action.
pub fn confirm(verb: &str, flags: &[(&str, &str)]) -> String {
    let fields: Vec<(&str, &str)> =
        std::iter::once(("verb", verb)).chain(flags.iter().copied()).collect();
    address("/confirm", &fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_singular_or_plural_nouns() {
        assert_eq!((&*count(1, "host"), &*count(0, "host")), ("1 host", "0 hosts"));
    }

    #[test]
    fn bar_ends_where_its_parts_end() {
        let bar = bar("", &[("good", 1), ("bad", 0), ("work", 2)], 3).into_string();
        assert!(
            bar.contains("x=\"0.00\" width=\"33.33\"") && bar.contains("width=\"66.67\""),
            "{bar}"
        );
        assert!(!bar.contains("bad"), "{bar}");
    }

    #[test]
    fn names_are_encoded_in_addresses_and_escaped_in_html() {
        assert_eq!(host_address("a/b <x>?"), "/hosts/a%2Fb%20%3Cx%3E%3F");
        let address = confirm("rollback", &[("name", "a&b"), ("to", "")]);
        assert_eq!(address, "/confirm?verb=rollback&name=a%26b");
        assert_eq!(
            pill("bad", "<script>").into_string(),
            "<span class=\"pill bad\">&lt;script&gt;</span>"
        );
    }
}
