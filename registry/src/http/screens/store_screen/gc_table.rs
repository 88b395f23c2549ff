//! Lists what gc would remove and keep. `gc -n` shows the same data.

use maud::{Markup, html};

use crate::catalog::BlobCount;
use crate::http::screens::layout::Section;
use crate::http::screens::widgets::{count, nothing, pill, section, size, table};
use crate::store_survey::GcPlan;

/// Renders the section.
pub fn gc_section(plan: Option<&GcPlan>) -> Section {
    let Some(plan) = plan else {
        let body = html! {
            div class="card pad stack" {
                p { "The store has too many files for this page to plan a gc. For the plan, type:" }
                code class="shell" { "ssh registry gc -n" }
            }
        };
        return section("gc", "What gc would do now", &nothing(), &body);
    };
    let beside = match plan.bytes {
        0 => html! { p { "no bytes would be freed" } },
        bytes => html! { p { (size(bytes)) " would be freed" } },
    };
    let head = html! {
        th scope="col" { "What" } th scope="col" { "Kind" } th scope="col" { "Which" }
        th scope="col" class="num" { "Size" }
    };
    let below = html! {
        span {
            "gc runs every hour if something may have changed. To run gc now: "
            code { "ssh registry gc" }
        }
    };
    section("gc", "What gc would do now", &beside, &table("gc", &head, &rows(plan), &below))
}

fn rows(plan: &GcPlan) -> Markup {
    let files = |blobs: BlobCount| (count(blobs.blobs, "file"), size(blobs.bytes));
    html! {
        @if plan.versions > 0 { (row(true, "versions", &versions(plan), "")) }
        @for (kind, blobs) in [("files", plan.blobs), ("uploads", plan.uploads)] {
            @if blobs.blobs > 0 {
                @let (which, bytes) = files(blobs);
                (row(true, kind, &which, &bytes))
            }
        }
        @if plan.thinned.states > 0 {
            (row(true, "states", &count(plan.thinned.states, "state"), ""))
        }
        @if plan.thinned.audit > 0 {
            (row(true, "audit", &format!("{} of the audit trail", entries(plan.thinned.audit)), ""))
        }
        @for (why, blobs) in &plan.kept {
            @let (which, bytes) = files(*blobs);
            (row(false, why, &which, &bytes))
        }
    }
}

fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

fn versions(plan: &GcPlan) -> String {
    let some: Vec<String> = plan
        .some_versions
        .iter()
        .map(|(component, version)| format!("{component} {version}"))
        .collect();
    let named = some.join(", ");
    match plan.versions - some.len() as u64 {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn row(removes: bool, kind: &str, which: &str, bytes: &str) -> Markup {
    html! {
        tr {
            th scope="row" { @if removes { (pill("warn", "remove")) } @else { (pill("off", "keep")) } }
            td { (kind) }
            td { (which) }
            td class="num" { (bytes) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Thinned;

    #[test]
    fn plan_has_a_row_for_each_kind() {
        let plan = GcPlan {
            versions: 5,
            some_versions: vec![("code".to_owned(), "<b>".to_owned())],
            blobs: BlobCount { blobs: 2, bytes: 3 << 20 },
            thinned: Thinned { states: 0, audit: 1 },
            bytes: 3 << 20,
            kept: vec![("current", BlobCount { blobs: 1, bytes: 1024 })],
            ..GcPlan::default()
        };
        let html = gc_section(Some(&plan)).html.into_string();
        for text in [
            "code &lt;b&gt; and 4 more",
            "<td>2 files</td><td class=\"num\">3 MiB</td>",
            "1 entry of the audit trail",
            "<td>current</td><td>1 file</td><td class=\"num\">1 KiB</td>",
            "3 MiB would be freed",
        ] {
            assert!(html.contains(text), "{text} is not in {html}");
        }
        assert!(gc_section(None).html.into_string().contains("gc -n"));
    }
}
