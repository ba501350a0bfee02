//! Names of the API and their producers: nothing is promised ahead of the code.
//!
//! A name that only its definition and tests know is found. Reading it is no production: code has to set it.
//! [`kinds`] looks at the kinds' fields and values by way of their [`types`], [`messages`] at
//! those of gRPC, [`metrics()`] at metrics.

mod kinds;
mod messages;
mod metrics;
mod types;

use std::collections::BTreeSet;

use super::Finding;
use super::source::{Kind, Token, code};
use super::tree::Tree;
pub(super) use metrics::metrics;

const WORDS: &str = "crds/src/conditions.rs";
const NAMES: [&str; 2] = ["crds/src/labels.rs", "crds/src/names.rs"];

/// Finds condition types, reasons, labels, annotations, object names, metrics, fields and values that nothing produces.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    conditions(tree, found);
    names(tree, found);
    kinds::check(tree, found);
    messages::check(tree, found);
    for file in tree.files.iter().filter(|file| file.is_product()) {
        for metric in metrics::unmoved(file) {
            let text = format!("the metric `{}` is registered and never set: set it or remove it", metric.text);
            found.push(Finding::new(&file.path, metric.line, text));
        }
    }
}

/// Returns the code of the product that may produce a name of `crds/`: everything outside of tests and definitions.
fn producers(tree: &Tree) -> Vec<Vec<&Token>> {
    let product = tree
        .files
        .iter()
        .filter(|file| file.is_product() && !NAMES.contains(&file.path.as_str()) && file.path != WORDS);
    product.map(|file| code(&file.tokens).into_iter().filter(|token| !token.test).collect()).collect()
}

fn conditions(tree: &Tree, found: &mut Vec<Finding>) {
    let Some(file) = tree.file(WORDS) else { return };
    let producers = producers(tree);
    for (list, name) in words(&code(&file.tokens)) {
        if !producers.iter().any(|code| produces(code, list, &name.text)) {
            let text = format!("no code sets {list}::{}: set it, or remove it until something does", name.text);
            found.push(Finding::new(&file.path, name.line, text));
        }
    }
}

/// Returns the variants in each `words! { Name { Variant, … } }`.
fn words<'a>(code: &[&'a Token]) -> Vec<(&'a str, &'a Token)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 5 < code.len() {
        let begins = code[at].is_word("words") && code[at + 1].is('!') && code[at + 2].is('{') && code[at + 4].is('{');
        if !begins {
            at += 1;
            continue;
        }
        let variants = code[at + 5..].iter().take_while(|token| !token.is('}'));
        found.extend(
            variants.filter(|token| token.kind == Kind::Word).map(|token| (code[at + 3].text.as_str(), *token)),
        );
        at += 5;
    }
    found
}

/// Returns true where `list::name` is a value, not a pattern or one side of a comparison.
fn produces(code: &[&Token], list: &str, name: &str) -> bool {
    let renamed = code.windows(3).filter(|words| words[0].is_word(list) && words[1].is_word("as"));
    renamed.map(|words| words[2].text.as_str()).chain([list]).any(|list| is_value(code, list, name))
}

fn is_value(code: &[&Token], list: &str, name: &str) -> bool {
    (0..code.len().saturating_sub(3)).any(|at| {
        let is_name =
            code[at].is_word(list) && code[at + 1].is(':') && code[at + 2].is(':') && code[at + 3].is_word(name);
        is_name && !compared(code, at) && !pattern(code, at + 4) && !searched(code, at)
    })
}

/// Returns true inside an array that is only searched: it tells which of its values something is, and makes none.
fn searched(code: &[&Token], at: usize) -> bool {
    let Some(begin) = bracket(code, at) else { return false };
    let mut depth = 0_usize;
    let end = (begin..code.len()).find(|at| {
        depth = if code[*at].is('[') { depth + 1 } else { depth - usize::from(code[*at].is(']')) };
        depth == 0
    });
    let Some(end) = end else { return false };
    // The type of a constant has a semicolon of its own: `const NAME: [Type; 2] = […]`.
    let mut before = (begin.saturating_sub(14)..begin).rev().take_while(|at| !code[*at].is('{') && !code[*at].is('}'));
    let named = before.find(|at| code[*at].is_word("const") || code[*at].is_word("static"));
    let Some(named) = named else { return search(&code[end + 1..]) };
    let name = &code[named + 1].text;
    let mut uses = (0..code.len()).filter(|at| code[*at].is_word(name) && *at != named + 1).peekable();
    uses.peek().is_some() && uses.all(|at| search(&code[at + 1..]))
}

/// Returns the opening bracket of the innermost array around `at`.
fn bracket(code: &[&Token], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..at).rev() {
        let token = code[at];
        if [']', ')', '}'].iter().any(|close| token.is(*close)) {
            depth += 1;
        } else if ['[', '(', '{'].iter().any(|open| token.is(*open)) {
            if depth == 0 {
                return token.is('[').then_some(at);
            }
            depth -= 1;
        } else if depth == 0 && token.is(';') {
            return None;
        }
    }
    None
}

/// Returns true where a method follows that only looks something up.
fn search(after: &[&Token]) -> bool {
    const SEARCHES: [&str; 5] = ["contains", "any", "find", "position", "all"];
    let mut words = after.iter().filter(|token| token.kind == Kind::Word);
    let is_method = after.first().is_some_and(|token| token.is('.'));
    let first = words.next().filter(|_| is_method);
    let first = if first.is_some_and(|word| ["iter", "into_iter"].contains(&word.text.as_str())) {
        words.next()
    } else {
        first
    };
    first.is_some_and(|word| SEARCHES.contains(&word.text.as_str()))
}

fn compared(code: &[&Token], at: usize) -> bool {
    at >= 2 && code[at - 1].is('=') && (code[at - 2].is('=') || code[at - 2].is('!'))
}

/// Returns true when `=>` follows, behind alternatives or not.
fn pattern(code: &[&Token], mut at: usize) -> bool {
    while code.get(at).is_some_and(|token| token.is('|') || token.is(':') || token.kind == Kind::Word) {
        at += 1;
    }
    matches!((code.get(at), code.get(at + 1)), (Some(a), Some(b)) if a.is('=') && b.is('>'))
}

/// Labels, annotations and names: each `pub` constant or function must be named by code elsewhere.
fn names(tree: &Tree, found: &mut Vec<Finding>) {
    let used: BTreeSet<&str> = producers(tree).into_iter().flatten().map(|token| token.text.as_str()).collect();
    for file in NAMES.iter().filter_map(|path| tree.file(path)) {
        let code = code(&file.tokens);
        for defined in code.windows(3).filter(|words| words[0].is_word("pub") && !words[2].test) {
            let named = ["const", "fn"].iter().any(|kind| defined[1].is_word(kind));
            let also =
                code.iter().any(|token| token.line > defined[2].line && !token.test && token.text == defined[2].text);
            if named && !used.contains(defined[2].text.as_str()) && !also {
                let text = format!("no code uses {}: use it or remove it", defined[2].text);
                found.push(Finding::new(&file.path, defined[2].line, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONDITIONS: &str =
        "macro_rules! words { () => {} }\nwords! {\n/// Types.\nNodeCondition {\n/// Ready.\nReady,\nSealed,\n}\n}";

    fn found(files: &[(&str, &str)]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        check(&Tree::of(files), &mut found);
        found.into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    #[test]
    fn a_condition_that_is_only_read_or_tested_has_no_producer() {
        let reads = "fn f() { match c { NodeCondition::Sealed | NodeCondition::Ready => {} } c == NodeCondition::Sealed; }\n\
                     #[cfg(test)]\nmod tests { fn t() { set(NodeCondition::Sealed); } }";
        let found = found(&[
            (WORDS, CONDITIONS),
            ("operator/src/a.rs", "use NodeCondition as Is; fn f() { set(Is::Ready, true) }"),
            ("node/src/b.rs", reads),
        ]);
        assert!(found.len() == 1 && found[0].0 == 7 && found[0].1.contains("NodeCondition::Sealed"), "{found:?}");
    }

    /// An array that a reason is looked up in produces none; one that is walked through does.
    #[test]
    fn a_reason_in_a_table_to_match_against_is_not_produced() {
        let reads = "const TABLE: [NodeCondition; 1] = [NodeCondition::Ready];\n\
                     fn f(x: N) { TABLE.iter().find(|one| one.as_str() == x); if [NodeCondition::Sealed].contains(&x) {} }";
        let all = found(&[(WORDS, CONDITIONS), ("node/src/b.rs", reads)]);
        assert_eq!(all.len(), 2, "{all:?}");
        let sets =
            reads.replace("find(|one| one.as_str() == x)", "for_each(set)").replace("].contains(&x)", "].map(set)");
        assert!(found(&[(WORDS, CONDITIONS), ("node/src/b.rs", &sets)]).is_empty());
    }

    #[test]
    fn a_label_that_nobody_uses_is_found() {
        let labels =
            "pub const USED: &str = \"a\";\npub const UNUSED: &str = \"b\";\n#[cfg(test)]\nmod tests { use UNUSED; }";
        let found = found(&[
            (NAMES[0], labels),
            ("operator/src/a.rs", "fn f() { labels::USED }"),
            ("e2e/x/src/a.rs", "labels::UNUSED"),
        ]);
        assert!(found.len() == 1 && found[0].1.contains("UNUSED"), "{found:?}");
    }
}
