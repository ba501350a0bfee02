//! A node that lies: its messages are bent on their way out.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyfleet_adversary::Behaviour;
use keyfleet_node::round::Messages;
use keyfleet_threshold::identifiers::{Digest, EpochNumber};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Participant, SignedMessage};

/// Bends messages from an attempt's number on.
pub(crate) struct Byzantine {
    behaviour: Behaviour,
    from: EpochNumber,
    key: IdentitySecretKey,
    /// Lies by the digest of the honest message: the same ones are given for as long as the process lives.
    told: BTreeMap<Digest, Vec<Arc<SignedMessage>>>,
}

impl Byzantine {
    pub(crate) fn new(behaviour: Behaviour, from: EpochNumber, key: IdentitySecretKey) -> Self {
        Self { behaviour, from, key, told: BTreeMap::new() }
    }

    /// Returns what peers read instead of the honest messages.
    pub(crate) fn bend(&mut self, honest: Messages, participant: &Participant) -> Messages {
        let (mut bent, mut told) = (Vec::new(), BTreeMap::new());
        for (number, message) in honest {
            if number < self.from {
                bent.push((number, message));
                continue;
            }
            let digest = message.digest();
            // Nothing, while the lie cannot be made yet.
            let Some(lies) = self.lies(&digest, &message, participant) else { continue };
            bent.extend(lies.iter().map(|lie| (number, lie.clone())));
            told.insert(digest, lies);
        }
        self.told = told;
        bent
    }

    fn lies(
        &self,
        digest: &Digest,
        message: &SignedMessage,
        participant: &Participant,
    ) -> Option<Vec<Arc<SignedMessage>>> {
        if let Some(told) = self.told.get(digest) {
            return Some(told.clone());
        }
        let lies = self.behaviour.bend(message, participant, &self.key)?;
        Some(lies.into_iter().map(Arc::new).collect())
    }
}
