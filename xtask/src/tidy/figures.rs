//! Figures of the sources, to compare one commit with another.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::dependencies::{circles, packages};
use super::modules::module_circles;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closures_and_asserts_are_counted_in_code() {
        let file =
            File::new("a.rs", "fn f() { let x = |y| y; let mut z = move || 1; let w = a | b; assert!(x); } // assert!");
        let code = code(&file.tokens);
        assert_eq!(code.windows(5).filter(|tokens| is_closure(tokens)).count(), 2);
        assert_eq!(code.windows(2).filter(|tokens| is_assert(tokens)).count(), 1);
    }
}
