//! What a node says: the messages of its attempts.

use std::sync::Arc;

use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::round::{Participant, SignedMessage};

/// Everything said, oldest attempt first, each message with its attempt's number.
pub(super) type Said = Vec<(EpochNumber, Arc<SignedMessage>)>;

/// How a node speaks: as its participant does.
#[derive(Default)]
pub(super) struct Voice {
    #[cfg(feature = "danger-faults")]
    liar: Option<crate::fault_injection::ByzantineHook>,
}

impl Voice {
    /// What others may read once the participant's state is durable.
    #[cfg_attr(not(feature = "danger-faults"), expect(clippy::unused_self, reason = "in tests' images a liar speaks"))]
    pub(super) fn says(&mut self, participant: &Participant) -> Said {
        let attempts = participant.state().attempts.iter();
        let said = attempts.flat_map(|(number, attempt)| attempt.outbox.iter().map(|message| (*number, message)));
        #[cfg(feature = "danger-faults")]
        if let Some(liar) = &mut self.liar {
            return liar.says(said, participant);
        }
        said.map(|(number, message)| (number, Arc::new(message.clone()))).collect()
    }

    /// Lets a liar speak from now on.
    #[cfg(feature = "danger-faults")]
    pub(super) fn danger_set_liar(&mut self, liar: crate::fault_injection::ByzantineHook) {
        self.liar = Some(liar);
    }
}
