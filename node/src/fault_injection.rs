//! The hook through which a program for tests installs faults in a node. No released program is compiled with it.

use crate::round::Persister;

/// Faults of one node.
pub trait FaultInjection: Send + Sync {
    /// Returns where this node died in earlier lives, oldest first: for the page `/status`.
    fn died(&self) -> Vec<String>;

    /// Installs hooks in a persister that has persisted nothing yet.
    fn install(self: Box<Self>, persister: &mut Persister);
}
