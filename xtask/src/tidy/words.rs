//! Words that comments, documents and messages avoid: calques, and doc comments that open with a pronoun or question.

use super::Finding;
use super::source::Kind;
use super::tree::{File, Tree};

/// First words of doc comments that say neither what an item is nor what it does.
const OPENINGS: [&str; 9] = ["What", "Whether", "Who", "Whose", "Which", "It", "Its", "So", "How"];

/// Phrase that readers stumble over, and its cure.
struct Banned {
    words: &'static [&'static str],
    /// The phrase is plain English before any of these words.
    fine_before: &'static [&'static str],
    /// The phrase is plain English within two words after this one.
    fine_after: &'static str,
    instead: &'static str,
}

const COMPARISON: &[&str] = &["as", "that", "for"];
const NUMBER: &str = "name the quantity and its unit (\"Timeout of one request.\", \"blocks between two boundaries\")";
const NOTHING: &str = "say what is wrong with the thing (\"the vector is malformed\"), or \"There is no …\"";

const TELL: &str = "\"reported\", \"shown\", \"known\"";
/// Words after "told" with which it is plain English.
const TOLD: &[&str] = &["to", "apart", "that"];

const BANNED: [Banned; 20] = [
    Banned { words: &["so", "long"], fine_before: COMPARISON, fine_after: "", instead: NUMBER },
    Banned { words: &["so", "many"], fine_before: COMPARISON, fine_after: "", instead: NUMBER },
    Banned { words: &["so", "often"], fine_before: COMPARISON, fine_after: "", instead: NUMBER },
    Banned { words: &["so", "much"], fine_before: COMPARISON, fine_after: "", instead: NUMBER },
    Banned { words: &["so", "few"], fine_before: COMPARISON, fine_after: "", instead: NUMBER },
    Banned { words: &["at", "most", "so"], fine_before: &[], fine_after: "", instead: NUMBER },
    Banned { words: &["at", "least", "so"], fine_before: &[], fine_after: "", instead: NUMBER },
    Banned { words: &["is", "none"], fine_before: &["of"], fine_after: "there", instead: NOTHING },
    Banned { words: &["are", "none"], fine_before: &[], fine_after: "there", instead: NOTHING },
    Banned { words: &["was", "none"], fine_before: &[], fine_after: "there", instead: NOTHING },
    Banned { words: &["were", "none"], fine_before: &[], fine_after: "there", instead: NOTHING },
    Banned { words: &["let", "go"], fine_before: &["of"], fine_after: "", instead: "\"removed\", or \"released\"" },
    Banned { words: &["is", "told"], fine_before: TOLD, fine_after: "", instead: TELL },
    Banned { words: &["are", "told"], fine_before: TOLD, fine_after: "", instead: TELL },
    Banned { words: &["was", "told"], fine_before: TOLD, fine_after: "", instead: TELL },
    Banned { words: &["had", "told"], fine_before: &[], fine_after: "", instead: TELL },
    Banned { words: &["is", "no", "point"], fine_before: &["in"], fine_after: "", instead: "\"is not a valid point\"" },
    Banned { words: &["the", "own"], fine_before: &[], fine_after: "", instead: "\"its own\", \"this node's\"" },
    Banned { words: &["who", "is", "asked"], fine_before: &[], fine_after: "", instead: "name the node or the peer" },
    Banned {
        words: &["whoever", "is", "asked"],
        fine_before: &[],
        fine_after: "",
        instead: "name the node or the peer",
    },
];

/// Files that quote bad examples in order to warn of them.
const QUOTE: [&str; 2] = ["CONTRIBUTING.md", "xtask/src/tidy/words.rs"];

/// Finds banned phrases and openings in a tree.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    phrases(tree, found);
    openings(tree, found);
}

/// Finds banned phrases in comments, messages and documents.
pub(super) fn phrases(tree: &Tree, found: &mut Vec<Finding>) {
    const TEXT: [&str; 7] = [".md", ".yaml", ".yml", ".tpl", ".txt", ".proto", ".go"];
    for file in &tree.files {
        if file.is_generated() || QUOTE.contains(&file.path.as_str()) {
            continue;
        }
        if file.is_rust() {
            for (line, text) in prose(file) {
                find(&file.path, line, &text, found);
            }
        } else if TEXT.iter().any(|end| file.path.ends_with(end)) || file.path.ends_with("Cargo.toml") {
            find(&file.path, 1, &file.text, found);
        }
    }
}

/// Finds doc comments that open with one of [`OPENINGS`].
pub(super) fn openings(tree: &Tree, found: &mut Vec<Finding>) {
    for file in tree.rust() {
        for (line, first) in doc_comments(file) {
            if let Some(word) = OPENINGS.iter().find(|word| **word == opening(&first)) {
                let text = format!(
                    "the doc comment opens with {word:?}: open with a verb (\"Returns\") or a noun (\"Timeout\")"
                );
                found.push(Finding::new(&file.path, line, text));
            }
        }
    }
}

/// Returns the first line of each doc comment of a Rust file, with its number.
pub(super) fn doc_comments(file: &File) -> Vec<(usize, String)> {
    let mut first = Vec::new();
    let mut last = 0;
    for token in &file.tokens {
        if token.kind == Kind::Doc {
            if last == 0 || token.line != last + 1 {
                first.push((token.line, token.text.trim().to_owned()));
            }
            last = token.line;
        }
    }
    first
}

/// Returns the first word of a comment, without an apostrophe's rest.
pub(super) fn opening(comment: &str) -> &str {
    comment.split(|one: char| !one.is_alphanumeric()).next().unwrap_or_default()
}

/// Returns the comments and messages of a Rust file. Lines that follow each other are one text.
fn prose(file: &File) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, Kind, String)> = Vec::new();
    for token in file.tokens.iter().filter(|token| !matches!(token.kind, Kind::Word | Kind::Sign)) {
        match all.last_mut() {
            Some((line, kind, text))
                if *kind == token.kind
                    && *kind != Kind::Text
                    && *line + text.matches('\n').count() + 1 == token.line =>
            {
                *text += "\n";
                *text += &token.text;
            }
            _ => all.push((token.line, token.kind, token.text.clone())),
        }
    }
    all.into_iter().map(|(line, _, text)| (line, text)).collect()
}

/// Splits a text into lower-case words with their lines. The end of a clause is a word of its own, so that no phrase reaches
/// over it.
fn words(first_line: usize, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (offset, line) in text.lines().enumerate() {
        for part in line.split_inclusive([' ', '\t', '.', ',', ';', ':', '!', '?', '(', ')', '"', '`', '|']) {
            let word = part.trim_matches(|one: char| !one.is_alphanumeric()).to_lowercase();
            if !word.is_empty() {
                found.push((first_line + offset, word));
            }
            if part.ends_with(['.', ';', ':', '!', '?', '"', '`', '|']) {
                found.push((first_line + offset, String::new()));
            }
        }
    }
    found
}

fn find(path: &str, first_line: usize, text: &str, found: &mut Vec<Finding>) {
    let words = words(first_line, text);
    for at in 0..words.len() {
        for banned in &BANNED {
            let end = at + banned.words.len();
            let here = words.get(at..end).is_some_and(|here| here.iter().map(|(_, word)| word).eq(banned.words));
            let before = words.get(end).is_some_and(|(_, next)| banned.fine_before.contains(&next.as_str()));
            let after =
                words[at.saturating_sub(2)..at].iter().any(|(_, word)| word == banned.fine_after && !word.is_empty());
            if here && !before && !after {
                let text = format!("{:?} is no plain English here: {}", banned.words.join(" "), banned.instead);
                found.push(Finding::new(path, words[at].0, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        check(&Tree::of(&[(path, text)]), &mut found);
        found.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn calques_are_found_in_comments_messages_and_documents() {
        assert_eq!(lines("a.rs", "fn f() {}\n// One request takes at most so\n// long.\n"), [2, 2]);
        assert_eq!(lines("a.rs", "fn f() { bail!(\"its vector is none\") }"), [1]);
        assert_eq!(lines("a.md", "Fine.\n\nA node that\nis none.\n"), [4]);
        assert_eq!(lines("a.rs", "/// Lasts so many blocks.\nfn f() {}"), [1]);
    }

    /// Words that are English, and used here in a way that is not.
    #[test]
    fn calques_of_removal_report_and_possession_are_found() {
        assert_eq!(
            lines("a.md", "A node is let go.\n\nA mute bucket is told of.\n\nBelow what it had told.\n"),
            [1, 3, 5]
        );
        assert_eq!(lines("a.rs", "fn f() { bail!(\"the key is no point of G2\") } // the own KmsNode"), [1, 1]);
        let fine =
            "It let go of the lock, is told to end, and tells them apart. There is no point in it. On the owner's own.";
        assert!(lines("a.md", fine).is_empty());
    }

    #[test]
    fn plain_english_with_the_same_words_passes() {
        assert!(
            lines("a.md", "As it is so long as it lasts. There is none. This is none of ours. Do so. Long ago, so often that it hurts.")
                .is_empty()
        );
        assert!(lines("a.rs", "fn is() { none() } // so: many").is_empty(), "code and clauses are no phrases");
    }

    #[test]
    fn doc_comments_that_open_with_a_question_are_found() {
        assert_eq!(
            lines("a.rs", "//! What is here.\n\n/// Whether it is.\n/// Returns.\nfn f() {}\n/// It's one.\n"),
            [1, 3, 6]
        );
        assert!(lines("a.rs", "/// Returns what\n/// it has.\nfn f() {}\n// What a plain comment asks.\n").is_empty());
    }
}
