//! Types of the kinds, as `crds/src` defines them, and the code that touches their fields.

use std::collections::{BTreeMap, BTreeSet};

use super::super::source::{Kind, Token, code};
use super::super::tree::Tree;

/// Field of a type.
pub(super) struct Field {
    pub(super) name: String,
    /// Words of its type.
    pub(super) of: Vec<String>,
    pub(super) line: usize,
}

/// Variant of an enumeration.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) default: bool,
    pub(super) line: usize,
}

/// Enumeration of one file.
pub(super) struct Enumeration {
    pub(super) path: String,
    pub(super) variants: Vec<Variant>,
}

/// Structs and enumerations by their names. Two structs of one name are one type here: its fields are those of both.
#[derive(Default)]
pub(super) struct Types {
    pub(super) structs: BTreeMap<String, Vec<Field>>,
    pub(super) enums: BTreeMap<String, Vec<Enumeration>>,
    /// Files that define a struct.
    pub(super) files: BTreeMap<String, String>,
    /// Types of `spec` and `status` of the kinds.
    pub(super) specs: Vec<String>,
    pub(super) statuses: Vec<String>,
}

impl Types {
    pub(super) fn read(tree: &Tree) -> Self {
        let mut types = Self::default();
        for file in tree.files.iter().filter(|file| file.path.starts_with("crds/src/") && file.is_product()) {
            let code: Vec<_> = code(&file.tokens).into_iter().filter(|token| !token.test).collect();
            for at in 0..code.len().saturating_sub(2) {
                let [keyword, name] = [code[at], code[at + 1]];
                if keyword.is_word("struct") && code[at + 2].is('{') {
                    types.structs.entry(name.text.clone()).or_default().extend(fields(&code[at + 3..]));
                    types.files.insert(name.text.clone(), file.path.clone());
                    if let Some(status) = types.statuses.pop_if(|status| status.starts_with('?')) {
                        types.statuses.push(status.trim_start_matches('?').to_owned());
                        types.specs.push(name.text.clone());
                    }
                } else if keyword.is_word("enum") && code[at + 2].is('{') {
                    let (path, variants) = (file.path.clone(), variants(&code[at + 3..]));
                    types.enums.entry(name.text.clone()).or_default().push(Enumeration { path, variants });
                } else if keyword.is_word("status") && name.is('=') && code[at + 2].kind == Kind::Text {
                    types.statuses.push(format!("?{}", code[at + 2].text));
                }
            }
        }
        types
    }

    /// Returns the types that are reached from these.
    pub(super) fn reached(&self, roots: &[String]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<String> = roots.to_vec();
        while let Some(name) = open.pop() {
            let fields = self.structs.get(&name);
            if found.insert(name) {
                open.extend(fields.into_iter().flatten().flat_map(|field| field.of.iter().cloned()));
            }
        }
        found
    }

    /// Returns the enumeration of a name that a type means: the one of its own file, or else the first.
    pub(super) fn enumeration(&self, name: &str, owner: &str) -> Option<&Enumeration> {
        let all = self.enums.get(name)?;
        all.iter().find(|one| self.files.get(owner) == Some(&one.path)).or(all.first())
    }

    fn with_field(&self, field: &str) -> BTreeSet<&str> {
        let owners = self.structs.iter().filter(|(_, fields)| fields.iter().any(|one| one.name == field));
        owners.map(|(name, _)| name.as_str()).collect()
    }

    /// Returns the owner types that fields of this name may lead to.
    fn led_to(&self, field: &str) -> BTreeSet<&str> {
        match field {
            "spec" => return self.specs.iter().map(String::as_str).collect(),
            "status" => return self.statuses.iter().map(String::as_str).collect(),
            _ => {}
        }
        let fields = self.structs.values().flatten().filter(|one| one.name == field);
        let words: BTreeSet<&str> = fields.flat_map(|field| field.of.iter().map(String::as_str)).collect();
        words.into_iter().filter(|word| self.structs.contains_key(*word)).collect()
    }
}

fn fields(code: &[&Token]) -> Vec<Field> {
    let mut found: Vec<Field> = Vec::new();
    let mut depth = 0_usize;
    for (at, token) in code.iter().enumerate() {
        if ['{', '(', '['].iter().any(|open| token.is(*open)) {
            depth += 1;
        } else if depth == 0 && token.is('}') {
            break;
        } else if ['}', ')', ']'].iter().any(|close| token.is(*close)) {
            depth = depth.saturating_sub(1);
        }
        if token.kind != Kind::Word || depth > 0 {
            continue;
        }
        let colon = |at: usize| code.get(at).is_some_and(|token| token.is(':'));
        if colon(at + 1) && !colon(at + 2) && !(at > 0 && colon(at - 1)) {
            let name = token.text.trim_start_matches("r#").trim_end_matches('_').to_owned();
            found.push(Field { name, of: Vec::new(), line: token.line });
        } else if let Some(field) = found.last_mut() {
            field.of.push(token.text.clone());
        }
    }
    found
}

fn variants(code: &[&Token]) -> Vec<Variant> {
    let mut found = Vec::new();
    let (mut depth, mut default) = (0_usize, false);
    for token in code {
        if ['{', '(', '['].iter().any(|open| token.is(*open)) {
            depth += 1;
        } else if depth == 0 && token.is('}') {
            break;
        } else if ['}', ')', ']'].iter().any(|close| token.is(*close)) {
            depth = depth.saturating_sub(1);
        } else if token.is_word("default") {
            default = true;
        } else if depth == 0 && token.kind == Kind::Word {
            found.push(Variant { name: token.text.clone(), default: std::mem::take(&mut default), line: token.line });
        }
    }
    found
}

/// Uses of fields in a piece of code: the owner's type and the field's name.
#[derive(Default)]
pub(super) struct Uses {
    pub(super) written: BTreeSet<(String, String)>,
    pub(super) read: BTreeSet<(String, String)>,
}

/// Piece of code, and what it tells about the types of its variables.
struct Scope<'a> {
    types: &'a Types,
    code: &'a [&'a Token],
    blocks: Vec<Block>,
    /// Types that it names.
    named: BTreeSet<&'a str>,
    /// Types that its fields lead to.
    passed: BTreeSet<&'a str>,
}

impl Uses {
    /// Finds the fields that code touches. `range` is the part of `code` that counts; all of it tells of which types the
    /// variables are.
    pub(super) fn of(types: &Types, code: &[&Token], range: std::ops::Range<usize>) -> Self {
        let words: BTreeSet<&str> =
            code.iter().filter(|token| token.kind == Kind::Word).map(|token| token.text.as_str()).collect();
        let named = types.structs.keys().map(String::as_str).filter(|name| words.contains(name)).collect();
        let passed = words.iter().flat_map(|word| types.led_to(word)).collect();
        let scope = Scope { types, code, blocks: blocks(code), named, passed };
        let mut uses = Self::default();
        for at in range {
            match code[at].kind {
                Kind::Text => uses.patch(&scope, at),
                Kind::Word => uses.word(&scope, at),
                _ => {}
            }
        }
        uses
    }

    /// Takes a key of a patch in JSON: `"status": { "name": … }`.
    fn patch(&mut self, scope: &Scope, at: usize) {
        let key = scope.code.get(at + 1).is_some_and(|next| next.is(':'));
        if key && innermost(&scope.blocks, at).is_some_and(|block| block.name == "status") {
            let name = snake(&scope.code[at].text);
            self.written.extend(scope.types.statuses.iter().map(|owner| (owner.clone(), name.clone())));
        }
    }

    fn word(&mut self, scope: &Scope, at: usize) {
        let name = scope.code[at].text.trim_start_matches("r#").trim_end_matches('_').to_owned();
        if scope.types.with_field(&name).is_empty() {
            return;
        }
        let sign = |at: usize, sign| scope.code.get(at).is_some_and(|token| token.is(sign));
        if let Some(block) = innermost(&scope.blocks, at).filter(|block| block.literal) {
            let field = sign(at + 1, ':') && !sign(at + 2, ':') && !sign(at - 1, ':');
            let short = (sign(at - 1, '{') || sign(at - 1, ',')) && (sign(at + 1, ',') || sign(at + 1, '}'));
            if (field && (block.pattern || !is_nothing(&scope.code[at + 2..]))) || short {
                let to = if block.pattern { &mut self.read } else { &mut self.written };
                to.insert((block.name.clone(), name.clone()));
            }
        }
        if at == 0 || !sign(at - 1, '.') || sign(at + 1, '(') || (at > 1 && sign(at - 2, '.')) {
            return;
        }
        let writes = changes(scope.code, at);
        let owners = owners(scope, &name, at, writes);
        let to = if writes { &mut self.written } else { &mut self.read };
        to.extend(owners.into_iter().map(|owner| (owner.to_owned(), name.clone())));
    }
}

/// Returns true for a value that leaves a field empty.
fn is_nothing(value: &[&Token]) -> bool {
    let words: Vec<&str> =
        value.iter().take_while(|token| !token.is(',') && !token.is('}')).map(|token| token.text.as_str()).collect();
    let empty = ["Vec", "String", "BTreeMap"].iter().any(|kind| words == [kind, ":", ":", "new", "(", ")"]);
    empty || words == ["None"] || words == ["Default", ":", ":", "default", "(", ")"]
}

/// Returns true where the field that is named at `at` is assigned, changed by a method, or lent to be changed.
fn changes(code: &[&Token], at: usize) -> bool {
    const METHODS: [&str; 11] = [
        "push",
        "insert",
        "extend",
        "retain",
        "get_or_insert",
        "get_or_insert_with",
        "get_or_insert_default",
        "entry",
        "clone_from",
        "append",
        "replace",
    ];
    let sign = |at: usize, sign| code.get(at).is_some_and(|token| token.is(sign));
    let assigned = sign(at + 1, '=') && !sign(at + 2, '=') && !sign(at + 2, '>');
    let counted = ['+', '-', '|'].iter().any(|one| sign(at + 1, *one)) && sign(at + 2, '=');
    let method = sign(at + 1, '.') && code.get(at + 2).is_some_and(|token| METHODS.contains(&token.text.as_str()));
    assigned || counted || method || lent(code, at - 1)
}

/// Returns true when the path that ends at `dot` begins with `&mut`.
fn lent(code: &[&Token], dot: usize) -> bool {
    let mut at = dot;
    while at > 0 && (code[at].is('.') || code[at].kind == Kind::Word) && !code[at].is_word("mut") {
        at -= 1;
    }
    at > 0 && code[at].is_word("mut") && code[at - 1].is('&')
}

/// Returns the types that may own the field which is named at `at`: by the field or variable before it, or else by what the
/// code names or comes to. A write counts for the types that the code names, if there are any.
fn owners<'a>(scope: &Scope<'a>, name: &str, at: usize, writes: bool) -> BTreeSet<&'a str> {
    let (types, code) = (scope.types, scope.code);
    let all = types.with_field(name);
    let known: BTreeSet<&str> = match receiver(code, at - 1) {
        Some((before, _)) if code[before].is_word("self") => {
            let own = scope.blocks.iter().filter(|block| block.implements && block.range.contains(&at));
            return all.into_iter().filter(|one| own.clone().any(|block| block.name == *one)).collect();
        }
        Some((before, true)) => types.led_to(&code[before].text),
        Some((before, false)) => declared(types, code, &code[before].text),
        None => BTreeSet::new(),
    };
    let exact: BTreeSet<&str> = all.intersection(&known).copied().collect();
    if !exact.is_empty() {
        return exact;
    }
    let named: BTreeSet<&str> = all.intersection(&scope.named).copied().collect();
    if writes && !named.is_empty() {
        return named;
    }
    all.intersection(&scope.passed).copied().chain(named).collect()
}

/// Returns where the name before a dot stands, calls and `?` left out, and whether it is a field itself.
fn receiver(code: &[&Token], dot: usize) -> Option<(usize, bool)> {
    let mut at = dot;
    loop {
        at = at.checked_sub(1)?;
        if code[at].is(')') || code[at].is(']') {
            at = opening(code, at)?;
            // The name of the method that was called, and its dot.
            if code[at].is('(') && at >= 2 && code[at - 1].kind == Kind::Word && code[at - 2].is('.') {
                at -= 2;
            } else if code[at].is('(') {
                return None;
            }
        } else if code[at].kind == Kind::Word {
            return Some((at, at > 0 && code[at - 1].is('.')));
        } else if !code[at].is('?') {
            return None;
        }
    }
}

fn opening(code: &[&Token], close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..=close).rev() {
        if code[at].is(')') || code[at].is(']') {
            depth += 1;
        } else if code[at].is('(') || code[at].is('[') {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// Returns the types that a file gives a variable: `name: &mut Type`, `let name = Type { … }`, `for name in &x.field`.
fn declared<'a>(types: &'a Types, code: &[&Token], name: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for at in 0..code.len().saturating_sub(2) {
        if !code[at].is_word(name) {
            continue;
        }
        let after_word = |word: &str| at > 0 && code[at - 1].is_word(word);
        let typed = code[at + 1].is(':') && !code[at + 2].is(':') && (at == 0 || !code[at - 1].is(':'));
        let made = code[at + 1].is('=') && !code[at + 2].is('=') && (after_word("let") || after_word("mut"));
        let walked = code[at + 1].is_word("in") && after_word("for");
        if typed || made || walked {
            let ends = |token: &&&Token| [';', ',', ')', '=', '{', '|', '('].iter().any(|sign| token.is(*sign));
            let words: Vec<_> = code[at + 2..].iter().take_while(|token| !ends(token)).collect();
            found.extend(words.iter().filter_map(|word| Some(types.structs.get_key_value(&word.text)?.0.as_str())));
            let last = words.windows(2).rfind(|pair| pair[0].is('.') && pair[1].kind == Kind::Word);
            found.extend(last.filter(|_| !typed).into_iter().flat_map(|pair| types.led_to(&pair[1].text)));
        }
    }
    found
}

/// Braces that belong to a type.
struct Block {
    name: String,
    range: std::ops::Range<usize>,
    /// Literal or pattern of a type.
    literal: bool,
    pattern: bool,
    implements: bool,
}

fn innermost(blocks: &[Block], at: usize) -> Option<&Block> {
    blocks.iter().filter(|block| block.range.contains(&at)).min_by_key(|block| block.range.len())
}

/// Returns all pairs of brackets, with the type that stands before them.
fn blocks(code: &[&Token]) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = Vec::new();
    for (at, token) in code.iter().enumerate() {
        if ['{', '(', '['].iter().any(|sign| token.is(*sign)) {
            open.push(at);
        } else if ['}', ')', ']'].iter().any(|sign| token.is(*sign)) {
            let Some(begin) = open.pop() else { continue };
            found.push(block(code, begin, at));
        }
    }
    let own: Vec<(std::ops::Range<usize>, String)> =
        found.iter().filter(|block| block.implements).map(|block| (block.range.clone(), block.name.clone())).collect();
    for block in found.iter_mut().filter(|block| block.name == "Self") {
        let around = own.iter().find(|(range, _)| range.contains(&block.range.start));
        block.name = around.map(|(_, name)| name.clone()).unwrap_or_default();
    }
    found
}

fn block(code: &[&Token], begin: usize, end: usize) -> Block {
    let mut block =
        Block { name: String::new(), range: begin + 1..end, literal: false, pattern: false, implements: false };
    if !code[begin].is('{') || begin == 0 {
        return block;
    }
    if begin >= 2 && code[begin - 1].is(':') && code[begin - 2].kind == Kind::Text {
        block.name.clone_from(&code[begin - 2].text);
        return block;
    }
    // Back over a list of generic arguments, and over the path, to what stands before it.
    let mut name = begin - 1;
    let mut depth = 0_usize;
    while name > 0 && (depth > 0 || code[name].is('>')) && !(code[name].is('>') && code[name - 1].is('-')) {
        depth = if code[name].is('>') {
            depth + 1
        } else if code[name].is('<') {
            depth - 1
        } else {
            depth
        };
        name -= 1;
    }
    if code[name].kind != Kind::Word || !code[name].text.starts_with(char::is_uppercase) {
        return block;
    }
    let mut first = name;
    while first >= 3 && code[first - 1].is(':') && code[first - 2].is(':') {
        first -= 3;
    }
    let before = first.checked_sub(1).map(|at| code[at]);
    let word = |word: &str| before.is_some_and(|token| token.is_word(word));
    block.name.clone_from(&code[name].text);
    block.implements = word("impl")
        || word("for")
        || before.is_some_and(|token| token.is('>') && first >= 2 && !code[first - 2].is('-'));
    let defines = ["struct", "enum", "trait", "union", "mod"].iter().any(|one| word(one));
    let returns = before.is_some_and(|token| token.is('>')) || ["where", "dyn"].iter().any(|one| word(one));
    block.literal = !block.implements && !defines && !returns;
    let mut after = end + 1;
    while code.get(after).is_some_and(|token| token.is(')')) {
        after += 1;
    }
    let equals =
        code.get(after).is_some_and(|token| token.is('=')) && !code.get(after + 1).is_some_and(|token| token.is('='));
    let rest = end >= 2 && code[end - 1].is('.') && code[end - 2].is('.');
    block.pattern = rest || equals;
    block
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for one in name.chars() {
        if one.is_uppercase() {
            snake.push('_');
        }
        snake.extend(one.to_lowercase());
    }
    snake
}
