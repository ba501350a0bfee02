//! Rules at a kind's root that keep what was written.
//!
//! A transition rule on a field is skipped when the field is removed, so remove-then-set would pass it. These rules stand at
//! the root, where they always run, and let the first write through: each `has` guards one step of the path.

use kube::core::{Message, Rule};

/// The field at `path` (from the root, dots between) may be set once; afterwards it is neither changed nor removed.
pub(crate) fn written_once(path: &str, because: &str) -> Rule {
    Rule::new(kept(path, "==")).message(Message::Message(format!(
        "{path} is written once and can be neither changed nor removed: {because}. Leave it as it is"
    )))
}

/// The number at `path` may rise, and is neither lowered nor removed.
pub(crate) fn only_rises(path: &str, because: &str) -> Rule {
    Rule::new(kept(path, ">=")).message(Message::Message(format!(
        "{path} only rises and cannot be removed: {because}. Read the object again and write at least the value it has"
    )))
}

/// `!has(oldSelf.a) || !has(oldSelf.a.b) || (has(self.a) && has(self.a.b) && self.a.b <op> oldSelf.a.b)`.
fn kept(path: &str, operator: &str) -> String {
    let steps: Vec<&str> = path.match_indices('.').map(|(at, _)| &path[..at]).chain([path]).collect();
    let absent: Vec<String> = steps.iter().map(|step| format!("!has(oldSelf.{step})")).collect();
    let present: Vec<String> = steps.iter().map(|step| format!("has(self.{step})")).collect();
    format!("{} || ({} && self.{path} {operator} oldSelf.{path})", absent.join(" || "), present.join(" && "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_the_path_is_guarded_on_both_sides() {
        assert_eq!(
            kept("status.publicKey", "=="),
            "!has(oldSelf.status) || !has(oldSelf.status.publicKey) || (has(self.status) && has(self.status.publicKey) \
             && self.status.publicKey == oldSelf.status.publicKey)"
        );
    }
}
