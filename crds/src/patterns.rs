//! The patterns of access rules: plain text in which `*` stands for any characters, none included.

/// Returns true where `text` matches `pattern`. `*` stands for any run of characters; every other character for itself, in
/// its case.
///
/// Takes at most pattern × text steps, whatever a caller sends.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_everything_else_is_itself() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("app/*", "app/a/b"),
            ("*/db", "x/db"),
            ("a*b*c", "aXbbYc"),
            ("system:serviceaccount:prod:*", "system:serviceaccount:prod:web"),
            ("**", "x"),
            ("*ab", "aab"),
            ("é*", "éa"),
        ] {
            assert!(matches(pattern, text), "{pattern:?} must match {text:?}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("app", "app/a"),
            ("app/*", "app"),
            ("App/*", "app/a"),
            ("a*b", "abc"),
            ("a?c", "abc"),
            ("app/*", "xapp/a"),
            ("a.c", "abc"),
            ("*ab", "aba"),
        ] {
            assert!(!matches(pattern, text), "{pattern:?} must not match {text:?}");
        }
    }

    #[test]
    fn a_hostile_text_costs_no_more_than_pattern_times_text() {
        let pattern = "a*".repeat(60) + "b";
        assert!(!matches(&pattern, &"a".repeat(100_000)));
    }
}
