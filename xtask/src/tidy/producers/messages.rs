//! Fields of the gRPC messages: some program fills each.

use std::collections::BTreeSet;

use super::super::Finding;
use super::super::source::{Kind, code};
use super::super::tree::{File, Tree};
use super::types::{Field, Types, Uses};

/// Finds fields of messages that no program fills, or fills with nothing alone.
pub(super) fn check(tree: &Tree, found: &mut Vec<Finding>) {
    let protos: Vec<&File> = tree.files.iter().filter(|file| file.path.ends_with(".proto")).collect();
    let mut types = Types::default();
    let mut choices = Vec::new();
    for file in &protos {
        read(file, &mut types, &mut choices);
    }
    let mut written = BTreeSet::new();
    let mut named = BTreeSet::new();
    for file in tree.files.iter().filter(|file| file.is_product() && !protos.is_empty()) {
        let code: Vec<_> = code(&file.tokens).into_iter().filter(|token| !token.test).collect();
        written.extend(Uses::of(&types, &code, 0..code.len()).written);
        let paths = code.windows(3).filter(|words| words[0].is(':') && words[1].kind == Kind::Word && words[2].is('('));
        named.extend(paths.map(|words| words[1].text.clone()));
    }
    for (message, fields) in &types.structs {
        for field in fields.iter().filter(|field| !written.contains(&(message.clone(), field.name.clone()))) {
            let text = format!("no program fills {message}.{}: fill it, or reserve its number", field.name);
            found.push(Finding::new(&types.files[message], field.line, text));
        }
    }
    for (path, choice) in choices.iter().filter(|(_, choice)| !named.contains(&upper(&choice.name))) {
        let text = format!("no program sends the choice {}: send it, or reserve its number", choice.name);
        found.push(Finding::new(path, choice.line, text));
    }
}

/// Reads the messages of a file, and the choices of their `oneof`s, which are enumerations in Rust.
fn read(file: &File, types: &mut Types, choices: &mut Vec<(String, Field)>) {
    let (mut message, mut choice, mut other) = (String::new(), false, 0_usize);
    for (at, line) in file.text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["message", name, "{"] => (*name).clone_into(&mut message),
            ["oneof", name, "{"] => {
                choice = true;
                add(types, file, &message, name, at + 1);
            }
            [.., "{"] => other += 1,
            ["}"] if other > 0 => other -= 1,
            ["}"] if choice => choice = false,
            ["}"] => message.clear(),
            [.., name, "=", _] if other == 0 && choice => {
                choices.push((file.path.clone(), Field { name: (*name).to_owned(), of: Vec::new(), line: at + 1 }));
            }
            [.., name, "=", _] if other == 0 && !message.is_empty() => add(types, file, &message, name, at + 1),
            _ => {}
        }
        // The type of a field leads from one message to another.
        if let [.., kind, _, "=", _] = words.as_slice()
            && let Some(field) = types.structs.get_mut(&message).and_then(|fields| fields.last_mut())
        {
            field.of.push((*kind).to_owned());
        }
    }
}

fn add(types: &mut Types, file: &File, message: &str, name: &str, line: usize) {
    let field = Field { name: name.to_owned(), of: Vec::new(), line };
    types.structs.entry(message.to_owned()).or_default().push(field);
    types.files.insert(message.to_owned(), file.path.clone());
}

/// Returns the name of a choice as Rust spells it.
fn upper(name: &str) -> String {
    let mut parts = String::new();
    for part in name.split('_') {
        let mut chars = part.chars();
        parts.extend(chars.next().into_iter().flat_map(char::to_uppercase));
        parts.push_str(chars.as_str());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that is always empty is a promise; one that is filled later, or by another program, is not.
    #[test]
    fn a_field_that_no_program_fills_is_found() {
        let proto = "message Report {\n  uint64 number = 1; // The number.\n  string handle = 2;\n  repeated Held held = 3;\n\
                     \x20 oneof said {\n    Held one_held = 4;\n    Held other = 5;\n  }\n}\n\
                     enum Kind {\n  KIND_ONE = 1;\n}\nmessage Held {\n  bytes proof = 1;\n}\n";
        let code = "fn f() { v1::Report { number, handle: String::new(), held: x, said: Some(Said::OneHeld(y)) }; \
                    v1::Held { proof: Vec::new() } }\nfn g(report: &mut Report) { for held in &mut report.held { held.proof = p; } }";
        let mut found = Vec::new();
        check(&Tree::of(&[("api/proto/r.proto", proto), ("node/src/a.rs", code)]), &mut found);
        let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.text.as_str())).collect();
        assert_eq!(
            found,
            [
                (3, "no program fills Report.handle: fill it, or reserve its number"),
                (7, "no program sends the choice other: send it, or reserve its number"),
            ]
        );
    }
}
