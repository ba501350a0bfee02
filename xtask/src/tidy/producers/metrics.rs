//! Metrics: every one that is registered is set.

use std::collections::BTreeSet;

use super::super::source::{Kind, Token, code};
use super::super::tree::File;

/// Methods that set a metric, and functions of that name.
const SETS: [&str; 5] = ["inc", "inc_by", "set", "observe", "dec"];
/// Types of a `struct Metrics` that are no metric.
const OTHER: [&str; 3] = ["Registry", "AtomicBool", "Mutex"];

/// Metrics of a file by their full names: a prefix given to the registry, and pairs of a name and a help text.
pub(in super::super) fn metrics(file: &File) -> Vec<(String, usize)> {
    let code = code(&file.tokens);
    let code: Vec<_> = code.into_iter().filter(|token| !token.test).collect();
    let prefix = code.windows(3).find(|words| words[0].is_word("with_prefix") && words[2].kind == Kind::Text);
    let Some(prefix) = prefix.map(|words| words[2].text.clone()) else { return Vec::new() };
    let pairs = pairs(&code).into_iter().map(|at| code[at]);
    pairs.map(|name| (format!("{prefix}_{}", name.text), name.line)).collect()
}

/// Returns where a metric's name stands with its help text behind it.
fn pairs(code: &[&Token]) -> Vec<usize> {
    let is_pair = |at: &usize| {
        let [name, comma, help] = [code[*at], code[*at + 1], code[*at + 2]];
        let is_name = name.kind == Kind::Text && name.text.chars().all(|one| one.is_ascii_lowercase() || one == '_');
        let is_help =
            help.kind == Kind::Text && help.text.starts_with(|one: char| one.is_uppercase() || one.is_numeric());
        is_name && comma.is(',') && is_help
    };
    (0..code.len().saturating_sub(2)).filter(is_pair).collect()
}

/// Returns the metrics of a file that nothing sets: fields of its `struct Metrics`, or else names without a value.
pub(super) fn unmoved(file: &File) -> Vec<&Token> {
    let code: Vec<_> = code(&file.tokens).into_iter().filter(|token| !token.test).collect();
    if !code.iter().any(|token| token.is_word("with_prefix")) {
        return Vec::new();
    }
    let begin =
        code.windows(3).position(|words| words[0].is_word("struct") && words[1].is_word("Metrics") && words[2].is('{'));
    let Some(begin) = begin else {
        return pairs(&code).into_iter().filter(|at| !has_value(&code[at + 3..])).map(|at| code[at]).collect();
    };
    let length = code[begin..].iter().position(|token| token.is('}')).unwrap_or_default();
    let (fields, rest) = code[begin + 3..].split_at(length.saturating_sub(3));
    let set = set(rest);
    let of_fields =
        fields.windows(3).filter(|field| field[0].kind == Kind::Word && field[1].is(':') && !field[2].is(':'));
    let metrics = of_fields.filter(|field| !OTHER.iter().any(|other| field[2].is_word(other)));
    metrics.map(|field| field[0]).filter(|field| !set.contains(field.text.as_str())).collect()
}

/// Returns true when an argument follows that is more than a constant.
fn has_value(after: &[&Token]) -> bool {
    let value = after.iter().take_while(|token| !token.is(')') && !token.is(';'));
    value.filter(|token| token.kind == Kind::Word).any(|token| token.text.starts_with(char::is_alphabetic))
}

/// Returns the fields that some statement sets, by a method or function, or by way of a variable that is set later.
fn set<'a>(code: &[&'a Token]) -> BTreeSet<&'a str> {
    let sets = |words: &[&Token]| {
        words.windows(2).any(|pair| SETS.iter().any(|name| pair[0].is_word(name)) && pair[1].is('('))
    };
    let mut found = BTreeSet::new();
    // Braces inside of parentheses are a literal, and part of the statement.
    let mut depth = 0_usize;
    let mut ends = |token: &Token| {
        if token.is('(') {
            depth += 1;
        } else if token.is(')') {
            depth = depth.saturating_sub(1);
        }
        token.is(';') || depth == 0 && (token.is('{') || token.is('}'))
    };
    for statement in code.split(|token| ends(token)) {
        let later = statement.windows(2).find(|pair| pair[0].is_word("let")).is_some_and(|pair| {
            code.windows(3).any(|words| {
                words[0].is_word(&pair[1].text) && words[1].is('.') && SETS.iter().any(|name| words[2].is_word(name))
            })
        });
        if later || sets(statement) {
            let fields = statement.windows(2).filter(|pair| pair[0].is('.') && pair[1].kind == Kind::Word);
            found.extend(fields.map(|pair| pair[1].text.as_str()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        unmoved(&File::new("operator/src/metrics.rs", source)).into_iter().map(|token| token.text.clone()).collect()
    }

    /// A metric that is registered, read, cloned or removed is not set.
    #[test]
    fn a_metric_that_is_never_set_is_found() {
        let file = "struct Metrics { registry: R, leading: AtomicBool, blocks: Family<K, G>, stale: G, time: H, read: G }\n\
                    fn new() { Registry::with_prefix(\"keyfleet_x\"); gauge(\"block_height\", \"The block\"); }\n\
                    fn set_all() { self.blocks.get_or_create(&of).set(1); let timer = self.time.clone(); let x = self.read.get(); }\n\
                    fn end() { self.timer.observe(3) }\nfn forget() { self.stale.remove(); self.stale.clear() }";
        let file = file.replace("registry: R", "registry: Registry");
        assert_eq!(texts(&file), ["stale", "read"]);
        let names = metrics(&File::new("operator/src/metrics.rs", &file));
        assert_eq!(names, [("keyfleet_x_block_height".to_owned(), 2)]);
    }

    /// Without a struct, each metric is registered together with its value.
    #[test]
    fn a_metric_without_a_value_is_found() {
        let file = "fn f() { Registry::with_prefix(\"keyfleet_x\"); gauge(\"ready\", \"One\", read(|n| n.ready)); \
                    gauge(\"stale\", \"Two\"); gauge(\"fixed\", \"Three\", 0); }";
        assert_eq!(texts(file), ["stale", "fixed"]);
    }
}
