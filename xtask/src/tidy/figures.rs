//! Figures of the sources, to compare one commit with another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::dependencies::{circles, packages};
use super::source::{Kind, Token, code};
use super::tree::{File, Tree};
use super::words;

/// First words of comments that are neither a verb nor a noun phrase.
const OTHERS: [&str; 38] = [
    "What", "Whether", "Who", "Whose", "Whom", "Which", "Whoever", "Whatever", "Where", "When", "While", "Why", "How",
    "It", "Its", "They", "Their", "He", "So", "If", "As", "That", "This", "These", "Those", "There", "Then", "Here",
    "Not", "And", "Or", "But", "Because", "Since", "For", "To", "Only", "Also",
];

/// Verbs that comments of functions open with, in the third person.
const VERBS: &str = "Accepts Adds Advances Applies Appends Asks Asserts Awaits Becomes Begins Binds Blocks Brings Builds Calls Cancels \
    Carries Checks Claims Clears Closes Collects Combines Commits Compares Computes Connects Converts Copies Counts Creates Cuts \
    Deals Decides Decodes Decrypts Deletes Derives Describes Destroys Discards Discovers Drains Draws Drops Encodes Encrypts Ends \
    Enters Erases Evaluates Executes Exits Fails Feeds Fetches Fills Finds Finishes Flushes Folds Follows Forgets Freezes Gets Gives \
    Handles Has Hashes Holds Imports Inserts Installs Interpolates Invokes Issues Joins Judges Keeps Kills Lays Leaves Lets Lists Loads \
    Locks Logs Looks Loses Makes Maps Marks Matches Measures Merges Moves Names Notes Notifies Observes Offers Opens Orders Parses Passes \
    Picks Pins Plans Polls Prepares Prints Produces Proves Publishes Puts Raises Reads Rebuilds Receives Records Recovers Refuses Registers \
    Rejects Releases Remembers Removes Renders Renews Repeats Replaces Replays Reports Requests Requires Resets Resolves Restores Returns \
    Retires Retries Rolls Rotates Runs Samples Saves Says Scans Seals Selects Sends Sets Ships Shows Signs Skips Sorts Spawns Speaks Splits \
    Starts Stops Stores Sums Takes Tells Tests Tries Trims Turns Unwraps Updates Uses Validates Verifies Waits Walks Watches Wipes Wraps Writes \
    Yields";

/// Prints the figures of a checkout.
///
/// # Errors
/// The folder is no checkout.
pub(super) fn print(checkout: &Path) -> Result<()> {
    let tree = Tree::read(checkout)?;
    let product: Vec<&File> = tree.files.iter().filter(|file| file.is_product()).collect();
    let mut lines = 0;
    let (mut docs, mut verbs, mut others, mut closures, mut asserts) = (0, 0, 0, 0, 0);
    for file in &product {
        let own: Vec<&Token> = file.tokens.iter().filter(|token| !token.test).collect();
        lines += own.iter().map(|token| token.line).collect::<BTreeSet<_>>().len();
        for (_, comment) in words::doc_comments(file) {
            let word = words::opening(&comment);
            docs += 1;
            verbs += usize::from(VERBS.split_whitespace().any(|verb| verb == word));
            others += usize::from(OTHERS.contains(&word));
        }
        let own: Vec<&Token> = code(&file.tokens).into_iter().filter(|token| !token.test).collect();
        closures += own.windows(5).filter(|tokens| is_closure(tokens)).count();
        asserts += own.windows(2).filter(|tokens| is_assert(tokens)).count();
    }
    let (mut phrases, mut openings) = (Vec::new(), Vec::new());
    words::phrases(&tree, &mut phrases);
    words::openings(&tree, &mut openings);
    let packages = packages(checkout)?.into_iter().map(|package| (package.name, package.uses)).collect();
    let modules = module_circles(&tree);

    let mut text = String::new();
    let per_thousand = |count: usize| count as f64 * 1000.0 / lines.max(1) as f64;
    let percent = |count: usize| count as f64 * 100.0 / docs.max(1) as f64;
    writeln!(text, "product code: {} files, {lines} lines with code or comments, tests cut off", product.len())?;
    writeln!(
        text,
        "doc comments: {docs}; open with a verb {:.1} %, with a verb or noun {:.1} %",
        percent(verbs),
        percent(docs - others)
    )?;
    writeln!(text, "closures bound to a name: {closures} ({:.1} per thousand lines)", per_thousand(closures))?;
    writeln!(text, "asserts: {asserts} ({:.1} per thousand lines)", per_thousand(asserts))?;
    writeln!(text, "circles of crates, dev-dependencies included: {}", shown(&circles(&packages)))?;
    writeln!(text, "circles of modules: {}", shown(&modules))?;
    writeln!(text, "banned list, everywhere: {} phrases, {} openings of doc comments", phrases.len(), openings.len())?;
    print!("{text}");
    Ok(())
}

fn shown(circles: &[Vec<String>]) -> String {
    let named: Vec<String> = circles.iter().map(|circle| format!("\n  {}", circle.join(", "))).collect();
    format!("{}{}", circles.len(), named.concat())
}

/// Returns true for `let name = |`, with or without `move`.
fn is_closure(tokens: &[&Token]) -> bool {
    let assigned = tokens[0].is_word("let") || tokens[0].is_word("mut");
    let begins = tokens[3].is('|') || (tokens[3].is_word("move") && tokens[4].is('|'));
    assigned && tokens[1].kind == Kind::Word && tokens[2].is('=') && begins
}

fn is_assert(tokens: &[&Token]) -> bool {
    const ASSERTS: [&str; 6] =
        ["assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq", "debug_assert_ne"];
    ASSERTS.iter().any(|name| tokens[0].is_word(name)) && tokens[1].is('!')
}

/// Returns the circles of files that import each other; a module and those inside it may.
fn module_circles(tree: &Tree) -> Vec<Vec<String>> {
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

    #[test]
    fn closures_and_asserts_are_counted_in_code() {
        let file =
            File::new("a.rs", "fn f() { let x = |y| y; let mut z = move || 1; let w = a | b; assert!(x); } // assert!");
        let code = code(&file.tokens);
        assert_eq!(code.windows(5).filter(|tokens| is_closure(tokens)).count(), 2);
        assert_eq!(code.windows(2).filter(|tokens| is_assert(tokens)).count(), 1);
    }
}
