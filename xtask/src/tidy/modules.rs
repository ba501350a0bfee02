//! Directions of imports between the files of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::dependencies::circles;
use super::source::{Kind, Token, code};
use super::tree::{File, Tree};

/// Finds files that import each other in a circle.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    for circle in module_circles(tree) {
        let first = tree.rust().find(|file| module(&file.path) == circle[0]);
        let text =
            format!("the modules {} import each other in a circle: move what both need below them", circle.join(", "));
        found.push(Finding::new(first.map_or("Cargo.toml", |file| &file.path), 1, text));
    }
}

/// Returns the circles of files that import each other; a module and those inside it may.
pub(super) fn module_circles(tree: &Tree) -> Vec<Vec<String>> {
    let mut modules = BTreeMap::new();
    for file in tree.rust().filter(|file| file.path.contains("/src/")) {
        modules.insert(module(&file.path), file);
    }
    let mut edges = BTreeMap::new();
    for (name, file) in &modules {
        let own = code(&file.tokens).into_iter().filter(|token| !token.test).collect::<Vec<_>>();
        let used = imports(&own, name).into_iter().filter_map(|path| known(&modules, &path));
        let strangers = used.filter(|used| !inside(used, name) && !inside(name, used));
        edges.insert(name.clone(), strangers.collect::<BTreeSet<_>>());
    }
    circles(&edges)
}

/// Returns a module's path, its crate's folder first: `node/src/store/mod.rs` is `node::store`.
fn module(path: &str) -> String {
    let (folder, inner) = path.split_once("/src/").unwrap_or((path, ""));
    let inner = inner.trim_end_matches(".rs").trim_end_matches("/mod");
    let inner = if ["lib", "main"].contains(&inner) { "" } else { inner };
    format!("{folder}/{inner}").trim_end_matches('/').replace('/', "::")
}

fn inside(inner: &str, outer: &str) -> bool {
    inner == outer || inner.starts_with(&format!("{outer}::"))
}

fn known(modules: &BTreeMap<String, &File>, path: &str) -> Option<String> {
    let mut path = path.to_owned();
    while !modules.contains_key(&path) {
        path.truncate(path.rfind("::")?);
    }
    Some(path)
}

/// Returns the full paths that code names by `crate::` and `super::`, groups taken apart.
fn imports(code: &[&Token], own: &str) -> Vec<String> {
    let krate = own.split("::src").next().unwrap_or_default();
    let root = if krate.starts_with("e2e::") {
        krate.splitn(3, "::").take(2).collect::<Vec<_>>().join("::")
    } else {
        krate.split("::").next().unwrap_or_default().to_owned()
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let base = if code[at].is_word("crate") {
            Some(root.clone())
        } else if code[at].is_word("super") {
            own.rfind("::").map(|end| own[..end].to_owned())
        } else {
            None
        };
        at += 1;
        if let Some(base) = base {
            at = group(code, at, &base, &mut found);
        }
    }
    found
}

/// Reads what follows a path: further steps or a group. Returns where it ends.
fn group(code: &[&Token], mut at: usize, base: &str, found: &mut Vec<String>) -> usize {
    let mut path = base.to_owned();
    while code.get(at).is_some_and(|token| token.is(':')) && code.get(at + 1).is_some_and(|token| token.is(':')) {
        at += 2;
        match code.get(at) {
            Some(token) if token.is('{') => {
                at += 1;
                while code.get(at).is_some_and(|token| !token.is('}')) {
                    if code[at].kind == Kind::Word {
                        let inner = format!("{path}::{}", code[at].text);
                        at = group(code, at + 1, &inner, found);
                    } else {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(token) if token.is_word("super") => {
                path.truncate(path.rfind("::").unwrap_or_default());
                at += 1;
            }
            Some(token) if token.kind == Kind::Word => {
                path = format!("{path}::{}", token.text);
                at += 1;
            }
            _ => break,
        }
    }
    found.push(path);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let tree = Tree::of(&[
            ("node/src/a.rs", "use crate::b::{self, x::Y};\nuse super::c;"),
            ("node/src/b/mod.rs", "mod x; fn f() { x::g() }"),
            ("node/src/b/x.rs", "use super::Own;\nfn f() { crate::a::g() }"),
            ("node/src/c.rs", "#[cfg(test)]\nmod tests { use crate::a::b; }"),
        ]);
        assert_eq!(module_circles(&tree), [["node::a", "node::b::x"]]);
    }
}
