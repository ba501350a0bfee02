//! Manifests in documents: blocks of YAML, and what a shell hands to `kubectl apply -f -`.

use anyhow::{Result, bail, ensure};

/// The sample that a fragment of a spec is laid into.
const SMALLEST: &str = include_str!("../../../manifests/samples/smallest.yaml");

/// Manifest of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Document and line that it begins on.
    pub place: String,
    /// Text for `kubectl`: no other program reads it on the way, since parsers of YAML differ.
    pub text: String,
}

/// Returns the manifests of a document.
///
/// # Errors
/// A block is neither a whole object nor a fragment of a KmsCluster's `spec`.
pub fn manifests(path: &str, document: &str) -> Result<Vec<Manifest>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for (at, line) in document.lines().enumerate() {
        match open.take() {
            Some((begin, end, text)) if line.trim() == end => {
                let place = format!("{path}:{begin}");
                found.push(Manifest { text: whole(&place, &text)?, place });
            }
            Some((begin, end, text)) => open = Some((begin, end, format!("{text}{line}\n"))),
            None => open = beginning(line).map(|end| (at + 2, end, String::new())),
        }
    }
    if let Some((begin, end, _)) = open {
        bail!("{path}:{begin}: no {end:?} ends the block");
    }
    Ok(found)
}

/// Returns the line that ends the block which this line begins.
fn beginning(line: &str) -> Option<String> {
    if let Some(language) = line.trim_start().strip_prefix("```") {
        return ["yaml", "yml"].contains(&language.trim()).then(|| "```".to_owned());
    }
    let (command, word) = line.split_once("<<")?;
    let applied = command.contains("kubectl") && command.contains(" -f -");
    applied.then(|| word.trim_matches(['-', '\'', '"', ' ']).to_owned())
}

/// Returns the block itself, or the smallest cluster with a fragment of a spec behind its own.
fn whole(place: &str, text: &str) -> Result<String> {
    if text.lines().any(|line| line.starts_with("apiVersion:")) {
        return Ok(text.to_owned());
    }
    let Some(fragment) = text.strip_prefix("spec:\n") else {
        bail!("{place}: neither an object with `apiVersion` nor a fragment that begins with `spec:`");
    };
    let outside = fragment.lines().find(|line| !line.is_empty() && !line.starts_with("  "));
    ensure!(outside.is_none(), "{place}: beside `spec` the fragment has {outside:?}: complete it with `apiVersion`");
    Ok(format!("{SMALLEST}{fragment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_what_a_shell_applies_are_found() {
        let document = "Text.\n\n```yaml\napiVersion: v1\nkind: A\n```\n```sh\nkubectl apply -f - <<'YAML'\napiVersion: v1\nkind: B\nYAML\n\
                        cat <<EOF\nnot: applied\nEOF\n```\n";
        let found = manifests("a.md", document).unwrap();
        let wanted = [("a.md:4", "apiVersion: v1\nkind: A\n"), ("a.md:9", "apiVersion: v1\nkind: B\n")];
        assert_eq!(found.len(), 2, "{found:?}");
        for (found, (place, text)) in found.iter().zip(wanted) {
            assert_eq!((found.place.as_str(), found.text.as_str()), (place, text));
        }
    }

    #[test]
    fn a_fragment_of_a_spec_is_laid_into_the_smallest_cluster() {
        let found = manifests("a.md", "```yaml\nspec:\n  nodes: 5\n```\n").unwrap();
        assert!(found[0].text.starts_with(SMALLEST) && found[0].text.ends_with("  nodes: 5\n"), "{}", found[0].text);
        assert!(
            SMALLEST.lines().last().is_some_and(|line| line.starts_with("  ")),
            "the sample does not end in its spec"
        );
    }

    #[test]
    fn a_block_that_nobody_could_apply_is_refused() {
        for block in ["data:\n  a: b\n", "spec:\n  nodes: 5\ndata:\n  a: b\n"] {
            let refused = manifests("a.md", &format!("```yaml\n{block}```\n")).expect_err(block).to_string();
            assert!(refused.starts_with("a.md:2: "), "{refused}");
        }
        assert!(manifests("a.md", "```yaml\nkind: A\n").is_err(), "a block without an end passes");
    }
}
