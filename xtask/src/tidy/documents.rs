//! Documents and messages against the code: commands, fields, metrics, paths and the sentence on maturity.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use super::Finding;
use super::producers::metrics;
use super::references;
use super::source::Kind;
use super::tree::{File, Tree};

/// Sentence on maturity, the same for everyone who may come across Keyfleet.
const MATURITY: &str = "Keyfleet is alpha software: it runs end to end, but its protocol has known weaknesses that are being mended; \
                        do not guard anything valuable with it yet.";
const SAY_MATURITY: [&str; 5] = [
    "README.md",
    "SECURITY.md",
    "charts/keyfleet-cluster/templates/NOTES.txt",
    "charts/keyfleet-operator/templates/NOTES.txt",
    "docs/quick-start.md",
];

/// Generated references of commands, from which their subcommands and options are read.
const COMMANDS: [&str; 2] = ["docs/keyfleet.md", "docs/commands.md"];

/// Fields of Kubernetes' own kinds that our texts name.
const FOREIGN: [&str; 3] = ["spec.nodeName", "spec.containers", "status.podIP"];

/// Finds what texts name and the code does not have.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    let commands = Commands::read(tree);
    let fields = Fields::read(tree);
    let known: BTreeSet<String> =
        tree.files.iter().filter(|file| file.is_product()).flat_map(metrics).map(|(name, _)| name).collect();
    for file in &tree.files {
        if file.is_generated() || file.path.starts_with("xtask/src/tidy/") || file.path == "CHANGELOG.md" {
            continue;
        }
        for (line, text) in texts(file) {
            let mut say = |text: String| found.push(Finding::new(&file.path, line, text));
            commands.check(&text, file.is_markdown(), &mut say);
            // Tests try fields that do not exist.
            if !file.path.contains("/tests/") {
                fields.check(&text, &mut say);
            }
            check_metrics(&known, &text, &mut say);
            references::paths(tree, &file.path, &text, &mut say);
        }
        if file.is_markdown() {
            references::links(tree, file, found);
        }
    }
    maturity(tree, found);
}

/// Returns what people read of a file, line by line: all of a document, comments and messages of code.
fn texts(file: &File) -> Vec<(usize, String)> {
    if file.is_rust() {
        let prose = file.tokens.iter().filter(|token| !matches!(token.kind, Kind::Word | Kind::Sign) && !token.test);
        return prose
            .flat_map(|token| token.text.lines().enumerate().map(|(at, line)| (token.line + at, line.to_owned())))
            .collect();
    }
    let read = [".md", "NOTES.txt", ".yaml"].iter().any(|end| file.path.ends_with(end));
    if !read || file.path.starts_with("manifests/crds/") || file.path.starts_with("charts/keyfleet-operator/files/") {
        return Vec::new();
    }
    // A command that goes on behind a backslash is one line.
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        match lines.last_mut() {
            Some((_, before)) if before.ends_with('\\') => {
                before.pop();
                *before += line.trim_start();
            }
            _ => lines.push((at + 1, line.to_owned())),
        }
    }
    lines
}

/// Commands by their full names, each with its options, and whether a value follows them.
struct Commands(BTreeMap<String, BTreeMap<String, bool>>);

impl Commands {
    fn read(tree: &Tree) -> Self {
        let mut commands = BTreeMap::new();
        for file in COMMANDS.iter().filter_map(|path| tree.file(path)) {
            let mut name = String::new();
            for line in file.text.lines() {
                if let Some(heading) = line.strip_prefix("## `") {
                    heading.trim_end_matches('`').clone_into(&mut name);
                    commands.insert(name.clone(), BTreeMap::new());
                } else if let Some(options) = commands.get_mut(&name).filter(|_| line.trim_start().starts_with('-')) {
                    let named = line.split([' ', ',', '=']).filter(|word| word.starts_with('-'));
                    options.extend(named.map(|word| (word.to_owned(), line.contains('<'))));
                }
            }
        }
        Self(commands)
    }

    /// Checks the commands of one line: in code spans, and where a shell would begin one.
    fn check(&self, line: &str, document: bool, say: &mut dyn FnMut(String)) {
        let spans = line.split('`').skip(1).step_by(2).filter(|_| line.matches('`').count() > 1);
        let bare = line.trim_start().trim_start_matches("$ ");
        let whole = (!document || !line.contains('`')).then_some(bare);
        for command in spans.chain(whole).flat_map(|text| text.split(['|', ';', '(', '&', '"'])) {
            self.check_one(command.split(" #").next().unwrap_or_default().trim(), say);
        }
    }

    fn check_one(&self, command: &str, say: &mut dyn FnMut(String)) {
        let command = &filled(command);
        let command = command.strip_prefix("kubectl ").filter(|rest| rest.starts_with("keyfleet ")).unwrap_or(command);
        let Some(root) = ["cargo xtask", "keyfleet"].into_iter().find(|root| command.starts_with(&format!("{root} ")))
        else {
            return;
        };
        if !self.0.contains_key(root) {
            return;
        }
        let (mut name, mut options, mut argument, mut value) = (root.to_owned(), Vec::new(), false, false);
        for word in command[root.len()..].split_whitespace() {
            let longer = format!("{name} {word}");
            if std::mem::take(&mut value) {
                continue;
            } else if word == "--" {
                break;
            } else if word.starts_with('-') {
                let option = word.split('=').next().unwrap_or_default().trim_end_matches(['.', ',', '\'', ']']);
                value = !word.contains('=') && self.option(&name, option) == Some(true);
                options.push(option);
            } else if !argument && self.0.contains_key(&longer) {
                name = longer;
            } else if !argument && self.has_subcommands(&name) && plain(word) {
                return say(format!("`{name}` has no subcommand `{word}`"));
            } else {
                argument = true;
            }
        }
        for option in options.into_iter().filter(|option| option.len() > 1 && !["-h", "--help"].contains(option)) {
            if self.option(&name, option).is_none() {
                say(format!("`{name}` has no option `{option}`"));
            }
        }
    }

    /// Returns whether a command, or one above it, has an option, and whether a value follows it.
    fn option(&self, name: &str, option: &str) -> Option<bool> {
        let above = self.0.iter().filter(|(command, _)| name == *command || name.starts_with(&format!("{command} ")));
        above.filter_map(|(_, options)| options.get(option).copied()).next()
    }

    fn has_subcommands(&self, name: &str) -> bool {
        let begin = format!("{name} ");
        self.0.keys().any(|command| command.starts_with(&begin))
    }
}

/// Returns a template with a word in place of everything between braces.
fn filled(template: &str) -> String {
    let mut depth = 0_usize;
    let mut filled = String::new();
    for one in template.chars() {
        match one {
            '{' => {
                filled.push_str(if depth == 0 { "X" } else { "" });
                depth += 1;
            }
            '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => filled.push(one),
            _ => {}
        }
    }
    filled
}

/// Returns true for a word that can only be a subcommand: neither an argument nor a path.
fn plain(word: &str) -> bool {
    word != "help" && word.chars().all(|one| one.is_ascii_lowercase() || one == '-')
}

/// Schemas of the kinds.
struct Fields(Vec<Value>);

impl Fields {
    fn read(tree: &Tree) -> Self {
        let files = tree.files.iter().filter(|file| file.path.starts_with("manifests/crds/"));
        let schemas = files.filter_map(|file| serde_yaml::from_str::<Value>(&file.text).ok());
        Self(schemas.map(|kind| kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()).collect())
    }

    /// Checks the fields that a line names by their path: `spec.…` and `status.…`.
    fn check(&self, line: &str, say: &mut dyn FnMut(String)) {
        if self.0.is_empty() {
            return;
        }
        for path in paths_of_fields(line) {
            let steps: Vec<String> = path.split('.').map(step).collect();
            let foreign = FOREIGN.iter().any(|known| path.starts_with(known));
            if !foreign && !self.0.iter().any(|schema| has(schema, &steps)) {
                say(format!("no kind has the field `{path}`: see docs/kinds.md"));
            }
        }
    }
}

/// Returns a step of a path without its index, in the spelling of the schema.
fn step(part: &str) -> String {
    let name = part.split('[').next().unwrap_or_default();
    let mut upper = false;
    let mut step = String::new();
    for one in name.chars() {
        if one == '_' {
            upper = true;
        } else {
            step.extend(if upper { one.to_uppercase().collect::<Vec<_>>() } else { vec![one] });
            upper = false;
        }
    }
    step
}

fn paths_of_fields(line: &str) -> Vec<&str> {
    const FILES: [&str; 4] = [".rs", ".json", ".yaml", ".txt"];
    let mut found = Vec::new();
    for root in ["spec.", "status."] {
        for (at, _) in line.match_indices(root) {
            let before = line[..at].chars().next_back();
            let jsonpath = line[..at].ends_with("{.") || line[..at].ends_with("=.") || line[..at].ends_with(" .");
            if before.is_some_and(|one| one.is_alphanumeric() || "._-/\\".contains(one)) && !jsonpath {
                continue;
            }
            let rest = &line[at..];
            let in_path = |one: char| one.is_ascii_alphanumeric() || "._[]*".contains(one);
            let end = rest.find(|one| !in_path(one)).unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches(['.', '[', '*']);
            if path.len() > root.len()
                && !rest[end..].starts_with(['(', '/', '…'])
                && !FILES.iter().any(|end| path.ends_with(end))
            {
                found.push(path);
            }
        }
    }
    found
}

fn has(schema: &Value, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    if let Some(inner) = schema["properties"].get(first.as_str()) {
        return has(inner, rest);
    }
    if schema["items"].is_mapping() {
        return has(&schema["items"], path);
    }
    // Keys of a map are the user's own, and so is whatever a schema leaves open.
    schema["additionalProperties"].is_mapping() || schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
}

fn check_metrics(known: &BTreeSet<String>, line: &str, say: &mut dyn FnMut(String)) {
    if known.is_empty() {
        return;
    }
    for root in ["keyfleet_operator_", "keyfleet_node_", "keyfleet_litestream_"] {
        for (at, _) in line.match_indices(root) {
            let rest = &line[at..];
            let end = rest.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            let base =
                ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            if name.len() > root.len() && !known.contains(name) && !known.contains(base) {
                say(format!("no program has the metric `{name}`"));
            }
        }
    }
}

fn maturity(tree: &Tree, found: &mut Vec<Finding>) {
    for file in SAY_MATURITY.iter().filter_map(|path| tree.file(path)) {
        let text: Vec<_> = file.text.split_whitespace().filter(|word| *word != ">").collect();
        if !text.join(" ").contains(MATURITY) {
            found.push(Finding::new(&file.path, 1, format!("does not say how mature Keyfleet is; say: {MATURITY}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "# Commands\n\n## `keyfleet`\n\n```text\n  -n, --namespace <NAME>\n```\n\n## `keyfleet status`\n\n```text\n  -o, --output\n```\n";
    const KIND: &str = "spec:\n  versions:\n  - schema:\n      openAPIV3Schema:\n        properties:\n          spec:\n            properties:\n\
                        \x20             access:\n                properties:\n                  rules:\n                    items:\n\
                        \x20                     properties:\n                        keyNames:\n                          type: array\n";

    fn texts(path: &str, text: &str) -> Vec<String> {
        let metrics = "fn f() { Registry::with_prefix(\"keyfleet_node\"); g(\"ready\", \"One\"); }";
        let files = [
            (COMMANDS[0], REFERENCE),
            ("manifests/crds/kmscluster.yaml", KIND),
            ("node/src/http.rs", metrics),
            (path, text),
        ];
        let mut found = Vec::new();
        check(&Tree::of(&files), &mut found);
        found.into_iter().filter(|finding| finding.path == path).map(|finding| finding.text).collect()
    }

    #[test]
    fn commands_and_options_that_do_not_exist_are_found() {
        assert_eq!(texts("docs/a.md", "Run `keyfleet roster`."), ["`keyfleet` has no subcommand `roster`"]);
        assert_eq!(
            texts("docs/a.md", "    kubectl keyfleet status --colour x"),
            ["`keyfleet status` has no option `--colour`"]
        );
        assert_eq!(texts("a.rs", "/// See `keyfleet roster`.\nfn f() {}").len(), 1);
        assert_eq!(
            texts("docs/a.md", "```sh\nkeyfleet status \\\n  --colour\n```"),
            ["`keyfleet status` has no option `--colour`"]
        );
        let fine = "`keyfleet` is `keyfleet status keys -n demo --output json`; keyfleet serves. `keyfleet-node` `keyfleet SUB` \
                    `keyfleet -n {{ .Release.Namespace }} status -o {x}`";
        assert!(texts("docs/a.md", fine).is_empty(), "{:?}", texts("docs/a.md", fine));
    }

    #[test]
    fn fields_that_no_kind_has_are_found() {
        assert_eq!(texts("docs/a.md", "Set `spec.membership.mode`.").len(), 1);
        assert_eq!(texts("a.rs", "fn f() { bail!(\"see spec.acces.rules\") }").len(), 1);
        let fine =
            "`spec.access.rules[].keyNames` and {.spec.access.rules[0]}, `pod.spec.x`, spec.access. A `spec.hash()`.";
        assert!(texts("docs/a.md", fine).is_empty(), "{:?}", texts("docs/a.md", fine));
    }

    #[test]
    fn metrics_that_no_program_has_are_found() {
        assert_eq!(texts("docs/a.md", "`keyfleet_node_lag`"), ["no program has the metric `keyfleet_node_lag`"]);
        assert!(texts("docs/a.md", "`keyfleet_node_ready` is 1").is_empty());
    }

    #[test]
    fn another_sentence_on_maturity_is_found() {
        assert_eq!(texts("README.md", "Keyfleet is ready.").len(), 1);
        assert!(texts("README.md", &MATURITY.replace("end, but", "end,\nbut")).is_empty());
    }
}
