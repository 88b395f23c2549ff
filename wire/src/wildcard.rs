//! Matches patterns with `*` and `?`, as in ssh's `known_hosts` files.

/// Whether `pattern` matches `text`. `*` matches any text, and `?` matches one byte, which is one
/// character of ASCII text. For every pattern, the running time is at most proportional to the
/// product of the two lengths.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, from));
                at += 1;
            }
            Some(&c) if c == b'?' || c == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    (at, from) = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, text, want) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a?c", "ac", false),
            ("*.example.com", "reg.example.com", true),
            ("*.example.com", "example.com", false),
            ("[10.0.?.*]:2022", "[10.0.1.17]:2022", true),
            ("*a*a*a*b", &"a".repeat(2000), false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern}");
        }
    }
}
