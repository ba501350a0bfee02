//! Tokens of a Rust file: enough of its grammar to tell code from comments and messages, and tests from the product.

/// Kind of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Line of a doc comment, `///` or `//!`, without the slashes.
    Doc,
    /// Any other comment, without the slashes.
    Comment,
    /// Content of a string literal.
    Text,
    /// Identifier, keyword or number.
    Word,
    /// One character of punctuation.
    Sign,
}

/// Token with the line that it begins on, from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Part of an item under `#[cfg(test)]`.
    pub(crate) test: bool,
}

impl Token {
    /// Returns true for this piece of punctuation.
    pub(crate) fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign && self.text.starts_with(sign)
    }

    /// Returns true for this word of code.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    fn is_code(&self) -> bool {
        !matches!(self.kind, Kind::Doc | Kind::Comment)
    }
}

/// Splits a Rust file into tokens. Tolerates anything: what it cannot place becomes punctuation.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader { rest: source, line: 1, found: Vec::new() };
    while !reader.rest.is_empty() {
        reader.step();
    }
    mark_tests(&mut reader.found);
    reader.found
}

/// Returns the code alone: no comments.
pub(crate) fn code(tokens: &[Token]) -> Vec<&Token> {
    tokens.iter().filter(|token| token.is_code()).collect()
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Token>,
}

impl Reader<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        let Some(first) = rest.chars().next() else { return };
        if first.is_whitespace() {
            self.take(first.len_utf8());
        } else if rest.starts_with("//") {
            self.line_comment();
        } else if rest.starts_with("/*") {
            let length = rest.find("*/").map_or(rest.len(), |end| end + 2);
            self.push(Kind::Comment, length, 2, if length < rest.len() { 2 } else { 0 });
        } else if let Some((open, close)) = string(rest) {
            self.push(Kind::Text, close.1, open, close.0);
        } else if let Some(length) = character(rest) {
            self.push(Kind::Sign, length, 0, 0);
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|one: char| !one.is_alphanumeric() && one != '_').unwrap_or(rest.len());
            self.push(Kind::Word, length, 0, 0);
        } else {
            self.push(Kind::Sign, first.len_utf8(), 0, 0);
        }
    }

    fn line_comment(&mut self) {
        let length = self.rest.find('\n').unwrap_or(self.rest.len());
        let doc = (self.rest.starts_with("///") && !self.rest.starts_with("////")) || self.rest.starts_with("//!");
        let (kind, slashes) = if doc { (Kind::Doc, 3) } else { (Kind::Comment, 2) };
        self.push(kind, length, slashes, 0);
    }

    /// Adds a token of `length` bytes, whose text leaves out `before` bytes at its start and `after` at its end.
    fn push(&mut self, kind: Kind, length: usize, before: usize, after: usize) {
        let text = self.rest[before..length - after].to_owned();
        self.found.push(Token { kind, text, line: self.line, test: false });
        self.take(length);
    }

    fn take(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
    }
}

/// Returns how long the opening of a string literal is, how long its closing, and how long all of it.
fn string(rest: &str) -> Option<(usize, (usize, usize))> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix).unwrap_or_default();
        let hashes = after.trim_start_matches('#');
        hashes.starts_with('"') && (hashes.len() == after.len() || prefix.ends_with('r'))
    })?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let open = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        let end = rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
        return Some((open, (close.len().min(end - open), end)));
    }
    let mut escaped = false;
    for (at, one) in rest[open..].char_indices() {
        match one {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((open, (1, open + at + 1))),
            _ => {}
        }
    }
    Some((open, (0, rest.len())))
}

/// Returns the length of a character literal; `None` for a lifetime and everything else.
fn character(rest: &str) -> Option<usize> {
    let quoted = rest.strip_prefix("b'").map(|after| (2, after)).or(rest.strip_prefix('\'').map(|after| (1, after)));
    let (open, after) = quoted?;
    let mut chars = after.char_indices();
    if chars.next()?.1 == '\\' {
        let end = after[2.min(after.len())..].find('\'')?;
        return Some(open + 2 + end + 1);
    }
    chars.next().filter(|(_, one)| *one == '\'').map(|(at, _)| open + at + 1)
}

/// Marks the items that stand under `#[cfg(test)]`, up to their closing brace or semicolon.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        if !begins_test(&tokens[at..]) {
            at += 1;
            continue;
        }
        let (mut depth, mut end) = (0_usize, at);
        while end < tokens.len() {
            let token = &mut tokens[end];
            token.test = true;
            end += 1;
            if token.is('{') {
                depth += 1;
            } else if token.is('}') {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            } else if token.is(';') && depth == 0 {
                break;
            }
        }
        at = end;
    }
}

fn begins_test(tokens: &[Token]) -> bool {
    let words: Vec<&str> = tokens.iter().take(7).map(|token| token.text.as_str()).collect();
    words.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str, kind: Kind) -> Vec<String> {
        tokens(source).into_iter().filter(|token| token.kind == kind).map(|token| token.text).collect()
    }

    #[test]
    fn comments_messages_and_code_are_told_apart() {
        let source =
            "/// Doc.\n// plain\nfn f<'a>(x: &'a str) -> char { g(\"mes\\\"sage // not\", r#\"raw \"x\" \"#); '\\'' }";
        assert_eq!(found(source, Kind::Doc), [" Doc."]);
        assert_eq!(found(source, Kind::Comment), [" plain"]);
        assert_eq!(found(source, Kind::Text), ["mes\\\"sage // not", "raw \"x\" "]);
        assert!(found(source, Kind::Word).ends_with(&["g".into()]), "the character literal broke the rest");
    }

    #[test]
    fn only_items_under_cfg_test_are_tests() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let product: Vec<_> = tokens(source).into_iter().filter(|token| !token.test).map(|token| token.text).collect();
        assert!(["a", "c", "d"].iter().all(|name| product.contains(&(*name).to_owned())));
        assert!(!product.contains(&"b".to_owned()) && !product.contains(&"more".to_owned()));
    }

    #[test]
    fn a_token_knows_its_line() {
        let all = tokens("a\n\n\"x\ny\"\nb");
        assert_eq!(all.iter().map(|token| token.line).collect::<Vec<_>>(), [1, 3, 5]);
    }
}
