//! The specification of the protocol against the code: `docs/protocol*.md` name for every check the function that makes it and the
//! test that misses it.
//!
//! In a table with a column *Function*, each of its cells names functions as `path::function`, from the checkout's root or from
//! `threshold/src/`; in a column *Test*, each cell names tests by their names. A cell without a name gives the reason in words.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::source::Token;
use super::tree::{File, Tree};

/// Folder of the crate that makes most of the checks.
const CORE: &str = "threshold/src/";

/// Finds functions and tests that the specification names and that do not exist, and checks for which it names none.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    let pages: Vec<_> = tree.files.iter().filter(|file| is_page(&file.path)).collect();
    if pages.is_empty() {
        return;
    }
    let tests: BTreeSet<&str> = tree.files.iter().filter(|file| file.is_rust()).flat_map(tests_of).collect();
    for page in pages {
        for Cell { line, column, text } in cells(&page.text) {
            let mut say = |text: String| found.push(Finding::new(&page.path, line, text));
            let names: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
            if text.trim().is_empty() {
                say(format!("a check names nothing under {column}: name it, or give the reason in words"));
            }
            for name in names {
                if column == "Test" && !tests.contains(name) {
                    say(format!("no test is called `{name}`"));
                } else if column == "Function" && !is_function(tree, name) {
                    say(format!("`{name}` is no function: write path::function"));
                }
            }
        }
    }
}

fn is_page(path: &str) -> bool {
    path.starts_with("docs/protocol") && path.ends_with(".md")
}

/// Cell of a column that is checked.
struct Cell<'a> {
    line: usize,
    column: &'a str,
    text: &'a str,
}

/// Returns the cells of the columns *Function* and *Test* of all tables of a page.
fn cells(page: &str) -> Vec<Cell<'_>> {
    let mut columns: BTreeMap<usize, &str> = BTreeMap::new();
    let mut found = Vec::new();
    let mut in_table = false;
    for (at, line) in page.lines().enumerate() {
        if !line.starts_with('|') {
            in_table = false;
            continue;
        }
        let row = line.trim_matches('|').split('|').map(str::trim).enumerate();
        if !std::mem::replace(&mut in_table, true) {
            columns = row.filter(|(_, name)| ["Function", "Test"].contains(name)).collect();
        } else if !line.starts_with("|-") {
            let checked =
                row.filter_map(|(place, text)| Some(Cell { line: at + 1, column: columns.get(&place)?, text }));
            found.extend(checked);
        }
    }
    found
}

/// Tells whether `name` is path::function, of a file that has the function.
fn is_function(tree: &Tree, name: &str) -> bool {
    let Some((path, function)) = name.rsplit_once("::") else { return false };
    let file = tree.file(path).or_else(|| tree.file(&format!("{CORE}{path}")));
    file.is_some_and(|file| functions(&file.tokens).any(|(_, token)| token.text == function))
}

/// Returns the names of a file's functions, with the places at which they stand.
fn functions(tokens: &[Token]) -> impl Iterator<Item = (usize, &Token)> {
    let pairs = tokens.windows(2).enumerate();
    pairs.filter(|(_, pair)| pair[0].is_word("fn")).map(|(at, pair)| (at, &pair[1]))
}

/// Returns the names of a file's functions under an attribute `#[test]` or one that ends so, `#[tokio::test(…)]`.
fn tests_of(file: &File) -> Vec<&str> {
    let named = functions(&file.tokens).filter(|(at, _)| is_test(&file.tokens[..*at]));
    named.map(|(_, token)| token.text.as_str()).collect()
}

/// Tells whether the attributes right before a function make it a test.
fn is_test(before: &[Token]) -> bool {
    let mut rest = before;
    while let [others @ .., last] = rest {
        if last.is_word("async") || last.is_word("pub") {
            rest = others;
        } else if last.is(']') {
            let Some(begin) = others.iter().rposition(|token| token.is('[')) else { return false };
            let words: Vec<_> = others[begin + 1..].iter().map(|token| token.text.as_str()).collect();
            let name = words.split(|word| *word == "(").next().unwrap_or_default();
            if name.last() == Some(&"test") {
                return true;
            }
            rest = &others[..begin.saturating_sub(1)];
        } else {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "fn judge() {}\nfn helper() {}\n#[test]\nfn it_holds() {}\n\
                        #[tokio::test(flavor = \"multi_thread\")]\nasync fn it_holds_too() {}\n#[cfg(test)]\nfn stage() {}";

    fn texts(rows: &str) -> Vec<String> {
        let page = format!(
            "| Check | Function | Test |\n|---|---|---|\n{rows}\n\nA `word_of_text`.\n\n| A | B |\n|---|---|\n| `x` | |\n"
        );
        let mut found = Vec::new();
        check(&Tree::of(&[("threshold/src/round/bundle.rs", CODE), ("docs/protocol-checks.md", &page)]), &mut found);
        found.into_iter().map(|finding| finding.text).collect()
    }

    /// A check whose function or test went is found; so is one that names none.
    #[test]
    fn checks_without_their_function_or_test_are_found() {
        let fine = "| K | `round/bundle.rs::judge`, `threshold/src/round/bundle.rs::helper` | `it_holds`, `it_holds_too` |\n\
                    | K | `round/bundle.rs::judge` | none: no input reaches it |";
        assert!(texts(fine).is_empty(), "{:?}", texts(fine));
        assert_eq!(texts("| K | `round/bundle.rs::gone` | `it_holds` |").len(), 1);
        assert_eq!(texts("| K | `round/gone.rs::judge` | `it_holds` |").len(), 1);
        assert_eq!(texts("| K | `judge` | `it_holds` |").len(), 1, "a function without its file");
        assert_eq!(texts("| K | `round/bundle.rs::judge` | `helper` |").len(), 1, "a function that is no test");
        assert_eq!(texts("| K | `round/bundle.rs::judge` | `stage` |").len(), 1, "a helper of tests is no test");
        assert_eq!(texts("| K | | |").len(), 2);
    }
}
