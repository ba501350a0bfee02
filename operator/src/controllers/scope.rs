//! Scope of the operator: the namespaces whose fleets it keeps.

/// The namespaces that are watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All, with a `ClusterRole`.
    All,
    /// These, with a `Role` in each: never empty, each once.
    Namespaces(Vec<String>),
}

impl Scope {
    /// Those that were named; none means all.
    #[must_use]
    pub fn of(named: Vec<String>) -> Self {
        let mut named: Vec<String> = named.into_iter().map(|name| name.trim().to_owned()).collect();
        named.retain(|name| !name.is_empty());
        named.sort();
        named.dedup();
        if named.is_empty() { Self::All } else { Self::Namespaces(named) }
    }

    /// Namespaces to watch, each with controllers of its own. `None` stands for all namespaces at once.
    #[must_use]
    pub fn watched(&self) -> Vec<Option<String>> {
        match self {
            Self::All => vec![None],
            Self::Namespaces(names) => names.iter().cloned().map(Some).collect(),
        }
    }

    /// Returns true where the operator watches nothing but `own`, its own namespace. Where that is deleted, the operator
    /// and its rights go with it, and nobody would be left to take a finalizer off: it sets none on `KmsNode` and
    /// `KeyEpoch`.
    #[must_use]
    pub fn is_only(&self, own: &str) -> bool {
        matches!(self, Self::Namespaces(names) if names.iter().all(|name| name == own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_once_and_none_means_all() {
        let of = |names: &[&str]| Scope::of(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(of(&[]), Scope::All);
        assert_eq!(of(&[""]), Scope::All, "an empty variable names nothing");
        assert_eq!(of(&["b", " a", "b"]).watched(), [Some("a".to_owned()), Some("b".to_owned())]);
        assert!(of(&["a", "a"]).is_only("a"));
        assert!(!of(&["a", "b"]).is_only("a") && !of(&["b"]).is_only("a") && !of(&[]).is_only("a"));
    }
}
