//! Shape of the sources: one style of modules, files that one reads at a time, test names that fit a line.

use super::Finding;
use super::source::code;
use super::tree::Tree;

/// Most lines of a Rust file.
const LINES: usize = 450;
/// Most characters of a test's name.
const NAME: usize = 62;

/// Finds files and names that are out of shape.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    for file in tree.rust() {
        let folder = file.path.trim_end_matches(".rs");
        if tree.has(folder) {
            let text = format!("stands beside the folder {folder}/: move it to {folder}/mod.rs");
            found.push(Finding::new(&file.path, 1, text));
        }
        let lines = file.text.lines().count();
        if lines > LINES {
            found.push(Finding::new(
                &file.path,
                LINES,
                format!("has {lines} lines, {LINES} is the most: split it by concern"),
            ));
        }
        for (line, name) in tests(file) {
            if name.len() > NAME {
                let text = format!(
                    "the test {name} has a name of {} characters, {NAME} is the most: move the sentence into its doc comment",
                    name.len()
                );
                found.push(Finding::new(&file.path, line, text));
            }
        }
    }
}

/// Returns the names of a file's tests: functions whose attributes end in `test`.
fn tests(file: &super::tree::File) -> Vec<(usize, String)> {
    let code = code(&file.tokens);
    let mut found = Vec::new();
    let mut marked = false;
    for (at, token) in code.iter().enumerate() {
        let attribute = at > 0 && token.is_word("test") && (code[at - 1].is('[') || code[at - 1].is(':'));
        marked |= attribute;
        if token.is_word("fn") {
            if let Some(name) = code.get(at + 1).filter(|_| marked) {
                found.push((name.line, name.text.clone()));
            }
            marked = false;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        check(&Tree::of(files), &mut found);
        found.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_file_beside_a_folder_of_its_name_is_found() {
        let found = texts(&[("a/x.rs", ""), ("a/x/y.rs", ""), ("a/xy.rs", "")]);
        assert!(found.len() == 1 && found[0].contains("a/x/mod.rs"), "{found:?}");
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        assert_eq!(texts(&[("a.rs", &"\n".repeat(LINES + 1))]).len(), 1);
        assert!(texts(&[("a.rs", &"\n".repeat(LINES))]).is_empty());
    }

    #[test]
    fn only_tests_have_their_names_measured() {
        let long = "a".repeat(NAME + 1);
        assert_eq!(texts(&[("a.rs", &format!("#[test]\nfn {long}() {{}}"))]).len(), 1);
        assert_eq!(
            texts(&[("a.rs", &format!("#[tokio::test(start_paused = true)]\nasync fn {long}() {{}}"))]).len(),
            1
        );
        assert!(texts(&[("a.rs", &format!("#[test]\nfn short() {{}}\nfn {long}() {{}}"))]).is_empty());
    }
}
