//! References of texts: paths of files and folders, links and the headings that they name.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::{File, Tree};

/// Folders at the root, by which a path of the checkout is known in running text.
const ROOTS: [&str; 14] = [
    "agent/",
    "api/",
    "charts/",
    "cli/",
    "client/",
    "crds/",
    "docs/",
    "e2e/",
    "litestream/",
    "manifests/",
    "node/",
    "operator/",
    "planner/",
    "threshold/",
];

/// Checks paths in running text: from the root or from the crate that a file belongs to, those of files and those of folders,
/// which end in a slash or stand in a code span.
pub(super) fn paths(tree: &Tree, own: &str, line: &str, say: &mut dyn FnMut(String)) {
    const ENDINGS: [&str; 7] = [".md", ".rs", ".yaml", ".toml", ".proto", ".json", ".txt"];
    /// Folders of a crate.
    const INNER: [&str; 6] = ["src/", "tests/", "fixtures/", "templates/", "benches/", "examples/"];
    let crate_folder = tree.crate_of(own);
    let inside = |one: char| one.is_ascii_alphanumeric() || "._-/*{}<>$".contains(one);
    for (at, span) in line.split('`').enumerate() {
        let in_span = at % 2 == 1;
        for word in span.split(|one| !inside(one)) {
            let path = word.trim_end_matches(['.', '-', ':']).trim_start_matches("./");
            let of_checkout = ROOTS.iter().any(|root| path.starts_with(root)) || path.starts_with("xtask/");
            let of_crate = crate_folder.is_some() && INNER.iter().any(|inner| path.starts_with(inner));
            let file = ENDINGS.iter().any(|end| path.ends_with(end));
            // A word with a slash in running text may be two words.
            let folder =
                path.ends_with('/') || (in_span && span == word && own.ends_with(".md") && !path.contains('.'));
            let open = path.contains(['*', '{', '<', '$']);
            if !(of_checkout || of_crate) || !(file || folder) || open {
                continue;
            }
            let inner = crate_folder.map(|folder| format!("{folder}/{path}"));
            if !tree.has(path) && !inner.is_some_and(|path| tree.has(&path)) {
                say(format!("{path} does not exist"));
            }
        }
    }
}

/// Checks the links of a document: files exist, and the headings that they name.
pub(super) fn links(tree: &Tree, file: &File, found: &mut Vec<Finding>) {
    for (at, line) in file.text.lines().enumerate() {
        for (begin, _) in line.match_indices("](") {
            let target = line[begin + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
            if !tree.has(&path) {
                found.push(Finding::new(&file.path, at + 1, format!("links to {path}, which does not exist")));
            } else if !heading.is_empty()
                && !tree.file(&path).is_some_and(|file| headings(&file.text).contains(heading))
            {
                found.push(Finding::new(
                    &file.path,
                    at + 1,
                    format!("links to #{heading} of {path}, which has no such heading"),
                ));
            }
        }
    }
}

/// Returns a link's target from the checkout's root.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Returns the anchors that GitHub gives a document's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|one| one.is_alphanumeric() || " -_".contains(*one));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let tree = Tree::of(&[("docs/keyfleet.md", "## `keyfleet status`\n"), ("node/src/http.rs", ""), (path, text)]);
        let mut links_found = Vec::new();
        links(&tree, &File::new(path, text), &mut links_found);
        let mut found: Vec<_> = links_found.into_iter().map(|finding| finding.text).collect();
        for line in text.lines() {
            paths(&tree, path, line, &mut |text| found.push(text));
        }
        found
    }

    #[test]
    fn links_headings_and_paths_that_do_not_exist_are_found() {
        assert_eq!(found("docs/a.md", "[x](b.md) [y](../node/src) [z](#here)\n\n# Over there").len(), 2);
        assert!(found("docs/a.md", "[x](keyfleet.md#keyfleet-status) [z](#over-there)\n\n# Over there").is_empty());
        assert_eq!(found("a.rs", "// See docs/gone.md.\nfn f() {}"), ["docs/gone.md does not exist"]);
        assert!(found("a.rs", "// See node/src/http.rs, docs/<page>.md and node/x.\nfn f() {}").is_empty());
    }

    /// Paths from a crate's folder, and paths of folders, are looked at, too.
    #[test]
    fn paths_of_crates_and_folders_that_do_not_exist_are_found() {
        let gone = "Streams: `src/heard/`, `tests/fleet.rs`, (`tests/hosts`).";
        assert_eq!(
            found("node/README.md", gone),
            ["src/heard/ does not exist", "tests/fleet.rs does not exist", "tests/hosts does not exist"]
        );
        assert_eq!(
            found("docs/a.md", "See `node/tests/` and node/gone/."),
            ["node/tests/ does not exist", "node/gone/ does not exist"]
        );
        let fine = "`src/http.rs`, `src/`, `node/src`, tests/all is prose, `src/<name>.rs`";
        assert!(found("node/README.md", fine).is_empty(), "{:?}", found("node/README.md", fine));
        assert!(found("docs/a.md", "`src/gone.rs` of some crate").is_empty());
    }
}
