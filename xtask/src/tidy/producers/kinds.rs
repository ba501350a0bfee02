//! Fields and values of the kinds: code writes every field of `status`, reads every field of `spec`, and knows every value.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::Finding;
use super::super::source::{Kind, Token, code};
use super::super::tree::Tree;
use super::types::{Types, Uses};
use super::{is_value, produces};

/// Crates whose code writes objects.
const WRITERS: [&str; 4] = ["crds/", "node/", "operator/", "planner/"];

/// Code of a file without its tests.
struct Source<'a> {
    path: &'a str,
    code: Vec<&'a Token>,
}

/// Finds fields of `status` that nothing writes, fields of `spec` that nothing reads, and values that nothing knows.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    let types = Types::read(tree);
    let product = tree.files.iter().filter(|file| file.is_product());
    let sources: Vec<_> = product
        .map(|file| Source {
            path: &file.path,
            code: code(&file.tokens).into_iter().filter(|token| !token.test).collect(),
        })
        .collect();
    statuses(&types, &sources, found);
    specs(&types, &sources, found);
}

fn finding(types: &Types, owner: &str, line: usize, text: String) -> Finding {
    Finding::new(types.files.get(owner).map_or("crds/src", String::as_str), line, text)
}

/// Each field of `status`, by its own type, is written; each value of an enumeration is written where such a field is.
fn statuses(types: &Types, sources: &[Source], found: &mut Vec<Finding>) {
    let writers: Vec<(&Source, Uses)> = sources
        .iter()
        .filter(|source| WRITERS.iter().any(|folder| source.path.starts_with(folder)))
        .map(|source| (source, Uses::of(types, &source.code, 0..source.code.len())))
        .collect();
    for owner in types.reached(&types.statuses) {
        for field in types.structs.get(&owner).into_iter().flatten() {
            let key = (owner.clone(), field.name.clone());
            let here: Vec<&Source> =
                writers.iter().filter(|(_, uses)| uses.written.contains(&key)).map(|(source, _)| *source).collect();
            if here.is_empty() {
                let text =
                    format!("no code writes {owner}.{}: write it, or remove it until something does", field.name);
                found.push(finding(types, &owner, field.line, text));
                continue;
            }
            for kind in &field.of {
                let Some(enumeration) = types.enumeration(kind, &owner) else { continue };
                let sources = with_helpers(&here, sources, kind);
                for value in &enumeration.variants {
                    if !sources.iter().any(|source| produces(&source.code, kind, &value.name)) {
                        let text = format!(
                            "no code writes {kind}::{} into {owner}.{}: write it, or give the field a type without it",
                            value.name, field.name
                        );
                        found.push(Finding::new(&enumeration.path, value.line, text));
                    }
                }
            }
        }
    }
}

/// Returns the files that write a field, those whose functions they call for a value of the type `kind`, and those that hand
/// such a value to a function of theirs.
fn with_helpers<'a>(writers: &[&'a Source<'a>], all: &'a [Source<'a>], kind: &str) -> Vec<&'a Source<'a>> {
    let of_kind =
        |source: &Source, range: &Range<usize>| source.code[range.clone()].iter().any(|token| token.is_word(kind));
    let calls =
        |source: &Source, name: &str| source.code.windows(2).any(|words| words[0].is_word(name) && words[1].is('('));
    let mut found: Vec<&Source> = writers.to_vec();
    loop {
        let more: Vec<&Source> = all
            .iter()
            .filter(|source| !found.iter().any(|known| known.path == source.path))
            .filter(|source| {
                let gives = functions(&source.code)
                    .iter()
                    .any(|one| of_kind(source, &one.returns) && found.iter().any(|known| calls(known, &one.name)));
                let hands = || {
                    found.iter().any(|known| {
                        functions(&known.code).iter().any(|one| of_kind(known, &one.takes) && calls(source, &one.name))
                    })
                };
                // A file that does not name the type makes no value of it.
                source.code.iter().any(|token| token.is_word(kind)) && (gives || hands())
            })
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Each field of `spec` that has no fields of its own is read outside `crds/`, or by a function of `crds/` that is called
/// there; each value of an enumeration is named there, or is the default.
fn specs(types: &Types, sources: &[Source], found: &mut Vec<Finding>) {
    let (definitions, others): (Vec<&Source>, Vec<&Source>) =
        sources.iter().partition(|source| source.path.starts_with("crds/"));
    let mut read = BTreeSet::new();
    let mut called: BTreeSet<&str> = BTreeSet::new();
    for source in &others {
        read.extend(Uses::of(types, &source.code, 0..source.code.len()).read);
        let words = source.code.windows(2).filter(|words| words[0].kind == Kind::Word && !words[1].is(':'));
        called.extend(words.map(|words| words[0].text.as_str()));
    }
    let mut carried_out: Vec<Vec<&Token>> = others.iter().map(|source| source.code.clone()).collect();
    for (source, function) in reached(&definitions, called) {
        read.extend(Uses::of(types, &source.code, function.body.clone()).read);
        carried_out.push(source.code[function.body].to_vec());
    }
    for owner in types.reached(&types.specs) {
        for field in types.structs.get(&owner).into_iter().flatten() {
            let has_fields = field.of.iter().any(|word| types.structs.contains_key(word));
            if !has_fields && !read.contains(&(owner.clone(), field.name.clone())) {
                let text =
                    format!("no code reads {owner}.{}: carry it out, or remove it until something does", field.name);
                found.push(finding(types, &owner, field.line, text));
            }
        }
        let values = types.enums.get(&owner).into_iter().flatten();
        let values = values.flat_map(|one| one.variants.iter().map(move |value| (&one.path, value)));
        for (path, value) in values.filter(|(_, value)| !value.default) {
            if !carried_out.iter().any(|code| names(code, &owner, &value.name)) {
                let text =
                    format!("no code knows {owner}::{}: carry it out, or remove it until something does", value.name);
                found.push(Finding::new(path, value.line, text));
            }
        }
    }
}

/// Returns true where code names a value, also in a pattern or a comparison.
fn names(code: &[&Token], list: &str, name: &str) -> bool {
    let renamed = code.windows(3).filter(|words| words[0].is_word(list) && words[1].is_word("as"));
    let lists: Vec<&str> = renamed.map(|words| words[2].text.as_str()).chain([list, "Self"]).collect();
    code.windows(4).any(|words| {
        lists.iter().any(|list| words[0].is_word(list))
            && words[1].is(':')
            && words[2].is(':')
            && words[3].is_word(name)
    }) || is_value(code, list, name)
}

/// Function of a file: its name, its parameters, its result, its body.
struct Function {
    name: String,
    takes: Range<usize>,
    returns: Range<usize>,
    body: Range<usize>,
}

fn functions(code: &[&Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..code.len().saturating_sub(1) {
        if !code[at].is_word("fn") || code[at + 1].kind != Kind::Word {
            continue;
        }
        let Some(begin) = (at..code.len()).find(|at| code[*at].is('{') || code[*at].is(';')) else { continue };
        let mut depth = 0_usize;
        let end = (begin..code.len()).find(|at| {
            depth = if code[*at].is('{') {
                depth + 1
            } else if code[*at].is('}') {
                depth - 1
            } else {
                depth
            };
            depth == 0
        });
        let arrow = (at..begin).find(|at| code[*at].is('-') && code[*at + 1].is('>')).unwrap_or(begin);
        found.push(Function {
            name: code[at + 1].text.clone(),
            takes: at + 2..arrow,
            returns: arrow..begin,
            body: begin..end.unwrap_or(begin),
        });
    }
    found
}

/// Returns the functions of `sources` that are called by a name in `called`, directly or through each other.
fn reached<'a>(sources: &[&'a Source<'a>], called: BTreeSet<&str>) -> Vec<(&'a Source<'a>, Function)> {
    let mut all: BTreeMap<String, Vec<(&Source, Function)>> = BTreeMap::new();
    for source in sources {
        for function in functions(&source.code) {
            all.entry(function.name.clone()).or_default().push((source, function));
        }
    }
    let mut open: Vec<String> = called.into_iter().map(str::to_owned).collect();
    let mut found = Vec::new();
    while let Some(name) = open.pop() {
        for (source, function) in all.remove(&name).into_iter().flatten() {
            let words = source.code[function.body.clone()].iter().filter(|token| token.kind == Kind::Word);
            open.extend(words.map(|token| token.text.clone()));
            found.push((source, function));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        check(&Tree::of(files), &mut found);
        found.into_iter().map(|finding| finding.text).collect()
    }

    const NODE: &str = "#[kube(kind = \"KmsNode\", status = \"NodeStatus\")]\npub struct NodeSpec { #[serde(default)] pub index: u32, pub recovery: Recovery }\n\
                        pub struct Recovery { pub recipients: Vec<String> }\n\
                        pub struct NodeStatus { pub erasure: Option<Erasure>, pub ready: Option<u32>, pub volume: Option<Volume> }\n\
                        pub struct Volume { pub handle: Option<String> }\n\
                        pub enum Erasure { Proven, Unproven }\npub struct Other { pub ready: u32, pub erasure: Erasure }";
    const READS: &str = "fn f(spec: &NodeSpec) { g(spec.index, &spec.recovery.recipients) }";

    /// A field counts as written by its own type alone: another type may have one of its name.
    #[test]
    fn a_status_field_counts_by_its_own_type() {
        let writes = "fn f(s: &mut NodeStatus) { s.erasure = Some(if x { Erasure::Proven } else { Erasure::Unproven }); \
                      s.volume = Some(Volume { handle: Some(3) }); Other { ready: 1, erasure } }";
        let all = found(&[("crds/src/n.rs", NODE), ("operator/src/a.rs", writes), ("node/src/b.rs", READS)]);
        assert_eq!(all, ["no code writes NodeStatus.ready: write it, or remove it until something does"]);
        let writes = writes.replace("ready: 1", "ready: { s.ready = Some(3); 1 }");
        assert_eq!(
            found(&[("crds/src/n.rs", NODE), ("operator/src/a.rs", &writes), ("node/src/b.rs", READS)]),
            [""; 0]
        );
    }

    /// Reading, comparing and taking apart write nothing.
    #[test]
    fn a_status_field_that_is_only_read_is_found() {
        let reads = "fn f(s: &NodeStatus) { if s.erasure == 2 { h(s.ready) } let Volume { handle } = v; match v { Volume { handle, .. } => {} } }";
        let all = found(&[("crds/src/n.rs", NODE), ("operator/src/a.rs", reads), ("node/src/b.rs", READS)]);
        assert_eq!(all.len(), 4, "{all:?}");
    }

    /// A value counts where its field is written, not where another field of the same type is.
    #[test]
    fn a_value_counts_for_its_own_field() {
        let node = "fn f() -> NodeStatus { NodeStatus { erasure: Some(Erasure::Proven), ready: Some(1), volume: Some(Volume { handle }) } }";
        let other =
            "fn f(e: Erasure) { Other { ready: 1, erasure: Erasure::Unproven }; match e { Erasure::Unproven => {} } }";
        let files = [
            ("crds/src/n.rs", NODE),
            ("operator/src/a.rs", node),
            ("planner/src/o.rs", other),
            ("node/src/b.rs", READS),
        ];
        let all = found(&files);
        assert!(all.len() == 1 && all[0].contains("Erasure::Unproven into NodeStatus.erasure"), "{all:?}");
        let calls = node.replace("Some(Erasure::Proven)", "erasure_of(x)");
        let helper = "fn erasure_of(x: X) -> Option<Erasure> { if x { Some(Erasure::Proven) } else { Some(Erasure::Unproven) } }";
        let files = [files[0], ("operator/src/a.rs", &calls), ("planner/src/h.rs", helper), files[3]];
        assert_eq!(found(&files), [""; 0], "a value of a helper does not count");
    }

    /// A field of `spec` that nothing outside its definition reads was promised ahead of the code.
    #[test]
    fn a_spec_field_that_nothing_reads_is_found() {
        let kind = "#[kube(status = \"S\")]\nstruct Spec { pub nodes: u32, pub recovery: Recovery, pub mode: Mode }\nstruct S {}\n\
                    struct Recovery { pub recipients: Vec<String> }\nenum Mode { #[default] Operator, Approved }\n\
                    impl Spec { fn effective(&self) -> u32 { self.nodes } fn unused(&self) -> X { &self.recovery.recipients } }";
        let code = "fn f(spec: &Spec, x: &X) { spec.effective(); h(x.recipients, spec.mode); }\n\
                    #[cfg(test)]\nmod tests { fn t(r: &Recovery) { r.recipients; Mode::Approved } }";
        let all = found(&[("crds/src/n.rs", kind), ("operator/src/a.rs", code)]);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("Mode::Approved") && all[1].contains("Recovery.recipients"), "{all:?}");
        let code = "fn f(spec: &Spec) { spec.effective(); h(&spec.recovery.recipients, spec.mode == Mode::Approved) }";
        assert_eq!(found(&[("crds/src/n.rs", kind), ("operator/src/a.rs", code)]), [""; 0]);
    }
}
