//! Names of the API and their producers: nothing is promised ahead of the code.
//!
//! A name that only its definition and tests know is found. Reading it is no production: code has to set it.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use super::Finding;
use super::source::{Kind, Token, code};
use super::tree::{File, Tree};

const WORDS: &str = "crds/src/conditions.rs";
const NAMES: [&str; 2] = ["crds/src/labels.rs", "crds/src/names.rs"];

/// Finds condition types, reasons, labels, annotations, object names, status fields and metrics that nothing produces.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    conditions(tree, found);
    names(tree, found);
    status_fields(tree, found);
    values(tree, found);
    for file in tree.files.iter().filter(|file| file.is_product()) {
        for metric in unmoved(file) {
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
        is_name && !compared(code, at) && !pattern(code, at + 4)
    })
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

/// Fields of `status` in the kinds' schemas: code has to write each.
fn status_fields(tree: &Tree, found: &mut Vec<Finding>) {
    const WRITERS: [&str; 4] = ["crds/", "node/", "operator/", "planner/"];
    let writers = tree
        .files
        .iter()
        .filter(|file| WRITERS.iter().any(|folder| file.path.starts_with(folder)) && file.is_product());
    let code = writers.map(|file| code(&file.tokens).into_iter().filter(|token| !token.test).collect::<Vec<_>>());
    let written: BTreeSet<String> = code.flat_map(|code| written(&code)).collect();
    for file in tree.files.iter().filter(|file| file.path.starts_with("manifests/crds/")) {
        let mut fields = BTreeMap::new();
        properties(&status(&file.text), "status", &mut fields);
        for (path, name) in fields {
            if !written.contains(&snake(&name)) {
                let line = file.text.lines().position(|line| line.trim() == format!("{name}:")).map_or(1, |at| at + 1);
                let text = format!(
                    "no code writes {path}: write it, or remove it from the type in crds/src until something does"
                );
                found.push(Finding::new(&file.path, line, text));
            }
        }
    }
}

/// Returns the schema of a definition's status.
fn status(text: &str) -> Value {
    let definition: Value = serde_yaml::from_str(text).unwrap_or_default();
    let version = &definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["status"].clone()
}

fn properties(schema: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    for (name, inner) in schema["properties"].as_mapping().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        let path = format!("{path}.{name}");
        found.insert(path.clone(), name.to_owned());
        // Conditions are Kubernetes' own type, which one function fills.
        if name != "conditions" {
            properties(inner, &path, found);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_mapping() {
            properties(&schema[inner], &format!("{path}[]"), found);
        }
    }
}

/// Values of enumerations in the kinds' schemas: code outside of their definition has to name each.
fn values(tree: &Tree, found: &mut Vec<Finding>) {
    let product = tree.files.iter().filter(|file| file.is_product());
    let (definitions, others): (Vec<&File>, Vec<&File>) = product.partition(|file| file.path.starts_with("crds/"));
    let mut known = BTreeSet::new();
    for file in others {
        let pairs = code(&file.tokens);
        let pairs = pairs.windows(2).filter(|pair| pair[0].is(':') && !pair[1].test);
        known.extend(pairs.map(|pair| pair[1].text.clone()));
    }
    // A default is what code does without a question.
    for file in definitions {
        let code = code(&file.tokens);
        let defaults = code.windows(5).filter(|words| words[0].is('#') && words[2].is_word("default"));
        known.extend(defaults.map(|words| words[4].text.clone()));
    }
    for file in tree.files.iter().filter(|file| file.path.starts_with("manifests/crds/")) {
        let mut values = BTreeSet::new();
        enumerations(&serde_yaml::from_str(&file.text).unwrap_or_default(), &mut values);
        for value in values.difference(&known) {
            let line = file.text.lines().position(|line| line.trim() == format!("- {value}")).map_or(1, |at| at + 1);
            let text = format!(
                "no code outside of crds/ names the value {value}: carry it out, or remove it until something does"
            );
            found.push(Finding::new(&file.path, line, text));
        }
    }
}

fn enumerations(schema: &Value, found: &mut BTreeSet<String>) {
    for (key, inner) in schema.as_mapping().into_iter().flatten() {
        match (key.as_str(), inner) {
            // Conditions are Kubernetes' own type.
            (Some("conditions"), _) => {}
            (Some("enum"), Value::Sequence(values)) => {
                found.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => enumerations(inner, found),
        }
    }
    schema.as_sequence().into_iter().flatten().for_each(|inner| enumerations(inner, found));
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for one in name.chars() {
        if one.is_uppercase() {
            snake.push('_');
        }
        snake.extend(one.to_lowercase());
    }
    snake
}

/// Returns the fields that code writes: in a literal, by assignment, or by a method that changes them.
fn written(code: &[&Token]) -> BTreeSet<String> {
    const CHANGES: [&str; 9] =
        ["push", "insert", "extend", "retain", "get_or_insert", "get_or_insert_with", "entry", "clone_from", "take"];
    let mut found = BTreeSet::new();
    let mut brackets = Vec::new();
    let mut defined_until = 0;
    for at in 1..code.len().saturating_sub(2) {
        if code[at].is_word("struct") || code[at].is_word("enum") {
            defined_until = at + body(&code[at..]);
        }
        let (before, name, next, after) = (code[at - 1], code[at], code[at + 1], code[at + 2]);
        match name.text.chars().next() {
            Some(open @ ('{' | '(' | '[')) if name.kind == Kind::Sign => brackets.push(open),
            Some('}' | ')' | ']') if name.kind == Kind::Sign => {
                brackets.pop();
            }
            _ => {}
        }
        if name.kind != Kind::Word || at < defined_until {
            continue;
        }
        let defined = ["let", "mut"].iter().any(|word| before.is_word(word));
        let inside = brackets.last() == Some(&'{') && !defined;
        let literal = inside && next.is(':') && !after.is(':') && !before.is(':');
        let short = inside && (before.is('{') || before.is(',')) && (next.is(',') || next.is('}'));
        let assigned = before.is('.') && next.is('=') && !after.is('=') && !after.is('>');
        let changed = before.is('.') && next.is('.') && CHANGES.contains(&after.text.as_str());
        let handed = before.is('.') && borrowed(code, at - 1);
        if literal || short || assigned || changed || handed {
            found.insert(name.text.trim_start_matches("r#").trim_end_matches('_').to_owned());
        }
    }
    found
}

/// Returns the length of a definition: up to its closing brace, or to the semicolon of one without a body.
fn body(code: &[&Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in code.iter().enumerate() {
        if token.is('{') {
            depth += 1;
        } else if token.is('}') {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 && (token.is('}') || token.is(';')) {
            return at + 1;
        }
    }
    code.len()
}

/// Returns true when the path that ends at `dot` begins with `&mut`.
fn borrowed(code: &[&Token], dot: usize) -> bool {
    let mut at = dot;
    while at > 0 && (code[at].is('.') || code[at].kind == Kind::Word) && !code[at].is_word("mut") {
        at -= 1;
    }
    at > 0 && code[at].is_word("mut") && code[at - 1].is('&')
}

/// Metrics of a file by their full names: a prefix given to the registry, and pairs of a name and a help text.
pub(super) fn metrics(file: &File) -> Vec<(String, usize)> {
    let code = code(&file.tokens);
    let code: Vec<_> = code.into_iter().filter(|token| !token.test).collect();
    let prefix = code.windows(3).find(|words| words[0].is_word("with_prefix") && words[2].kind == Kind::Text);
    let Some(prefix) = prefix.map(|words| words[2].text.clone()) else { return Vec::new() };
    let pairs = code.windows(3).filter(|pair| {
        let name = pair[0].kind == Kind::Text && pair[0].text.chars().all(|one| one.is_ascii_lowercase() || one == '_');
        let help =
            pair[2].kind == Kind::Text && pair[2].text.starts_with(|one: char| one.is_uppercase() || one.is_numeric());
        name && pair[1].is(',') && help
    });
    pairs.map(|pair| (format!("{prefix}_{}", pair[0].text), pair[0].line)).collect()
}

/// Returns the fields of a `struct Metrics` that no method sets.
fn unmoved(file: &File) -> Vec<&Token> {
    let code = code(&file.tokens);
    let Some(begin) =
        code.windows(3).position(|words| words[0].is_word("struct") && words[1].is_word("Metrics") && words[2].is('{'))
    else {
        return Vec::new();
    };
    if !code.iter().any(|token| token.is_word("with_prefix")) {
        return Vec::new();
    }
    let length = code[begin..].iter().position(|token| token.is('}')).unwrap_or_default();
    let (fields, rest) = code[begin + 3..].split_at(length.saturating_sub(3));
    let fields = fields.windows(3).filter(|field| field[0].kind == Kind::Word && field[1].is(':') && !field[2].is(':'));
    let fields = fields.map(|field| field[0]);
    let removing = removal(rest);
    fields
        .filter(|field| {
            !rest.windows(2).enumerate().any(|(at, pair)| {
                pair[0].is('.') && pair[1].text == field.text && !pair[1].test && !removing.contains(&at)
            })
        })
        .collect()
}

/// Returns where the function `forget` is: what it removes, it does not set.
fn removal(code: &[&Token]) -> std::ops::Range<usize> {
    let Some(begin) = code.windows(2).position(|words| words[0].is_word("fn") && words[1].is_word("forget")) else {
        return 0..0;
    };
    let end =
        code[begin + 2..].iter().position(|token| token.is_word("fn")).map_or(code.len(), |next| begin + 2 + next);
    begin..end
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

    #[test]
    fn a_status_field_that_is_only_read_is_found() {
        let schema = "spec:\n  versions:\n  - schema:\n      openAPIV3Schema:\n        properties:\n          status:\n            properties:\n\
                      \x20             activeEpoch:\n                type: integer\n              unable:\n                type: array\n\
                      \x20               items:\n                  properties:\n                    keyIndex:\n                      type: integer\n";
        let code =
            "fn f(s: &mut S) { s.active_epoch = 1; read(s.unable); vec![K { key_index: 3 }]; if s.unable == 2 {} }";
        let found = found(&[("manifests/crds/kmscluster.yaml", schema), ("operator/src/a.rs", code)]);
        assert!(found.len() == 1 && found[0].1.contains("status.unable"), "{found:?}");
    }

    #[test]
    fn a_value_that_no_code_carries_out_is_found() {
        let schema = "a:\n  enum:\n  - Operator\n  - Approved\n  - Plain\n";
        let code = "fn f() { if mode == Mode::Operator {} }\n#[cfg(test)]\nmod tests { fn t() { Mode::Approved } }";
        let found = found(&[
            ("manifests/crds/kmscluster.yaml", schema),
            ("node/src/a.rs", code),
            ("crds/src/b.rs", "enum Mode { #[default] Plain, Approved } f(Mode::Approved)"),
        ]);
        assert!(found.len() == 1 && found[0].0 == 4 && found[0].1.contains("Approved"), "{found:?}");
    }

    #[test]
    fn a_metric_that_is_never_set_is_found_and_names_have_their_prefix() {
        let file = "struct Metrics { registry: R, blocks: Family<K, G>, stale: G }\nfn new() { Registry::with_prefix(\"keyfleet_x\"); \
                    gauge(\"block_height\", \"The block\"); self.registry; }\nfn set() { self.blocks.set(1) }\nfn forget() { self.stale.remove() }";
        let found = found(&[("operator/src/metrics.rs", file)]);
        assert!(found.len() == 1 && found[0].1.contains("`stale`"), "{found:?}");
        let names = metrics(&File::new("operator/src/metrics.rs", file));
        assert_eq!(names, [("keyfleet_x_block_height".to_owned(), 2)]);
    }
}
