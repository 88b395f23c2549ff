//! Makes a short text from an error of the S3 library (pure). The library's own texts have the
//! address of the object, the time, the number of tries, and each cause between the request and the
//! connection.

use std::error::Error;

/// Maximum number of characters of a text.
const LONGEST: usize = 300;

/// What went wrong, on one line: the server's code if the server refused the request, otherwise what
/// failed and its first cause.
pub(super) fn failure_text(err: &dyn Error) -> String {
    let mut cause = err;
    while let Some(earlier) = cause.source() {
        cause = earlier;
    }
    let text = shortened(&err.to_string(), &cause.to_string());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    deploy_store::escape(&text.chars().take(LONGEST).collect::<String>())
}

fn shortened(whole: &str, cause: &str) -> String {
    // "Generic S3 error: Error performing PUT ADDRESS in 3s, after 4 retries, ... - WHAT"
    let performed =
        whole.split_once("Error performing ").and_then(|(_, rest)| rest.split_once(" - "));
    let what = performed.map_or(whole, |(_, what)| what);
    let what = what.trim_start_matches("HTTP error: ");
    if let Some(answer) = what.strip_prefix("Server returned non-2xx status code: ") {
        let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
        return match between(body, "<Code>", "</Code>") {
            Some(code) => format!("the server answered {status} ({code})"),
            None => format!("the server answered {status}"),
        };
    }
    if what.contains(cause) { what.to_owned() } else { format!("{what}: {cause}") }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(begin)?.1.split_once(end)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_refusal_has_the_status_and_the_code() {
        let whole = "Generic S3 error: Error performing PUT http://127.0.0.1:1/b/k in 3ms - Server \
                     returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error>\
                     <Code>InvalidAccessKeyId</Code></Error>";
        assert_eq!(
            shortened(whole, "unused"),
            "the server answered 403 Forbidden (InvalidAccessKeyId)"
        );
        let short =
            "Error performing GET x in 1s - Server returned non-2xx status code: 502 Bad Gateway: ";
        assert_eq!(shortened(short, "unused"), "the server answered 502 Bad Gateway");
    }

    #[test]
    fn text_of_a_lost_connection_has_its_first_cause() {
        let whole = "Generic S3 error: Error performing GET http://127.0.0.1:1/b/k in 3s, after 4 \
                     retries, max_retries: 4, retry_timeout: 30s  - HTTP error: error sending request";
        assert_eq!(
            shortened(whole, "Connection refused (os error 111)"),
            "error sending request: Connection refused (os error 111)"
        );
        assert_eq!(shortened("Generic S3 error: no keys", "no keys"), "Generic S3 error: no keys");
    }
}
