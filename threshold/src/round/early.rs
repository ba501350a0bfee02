//! Early messages, which came before they could be judged: a plan reaches one node sooner than another, and a dealer that is quick is heard
//! before its round is known.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::SignedMessage;
use crate::identifiers::{Digest, NodeIndex};

/// Bytes that are kept of one sender: all that it may say in a round of a hundred nodes, twice.
const SENDER_BYTES_MAX: usize = 64 * 1024;

/// Plans of one sender's dropped messages that are remembered: the newest.
const DROPPED_PLANS_MAX: usize = 16;

/// Messages that came before what they need: their plan, or the vector that it reshares. Of each sender the newest are kept.
#[derive(Default)]
pub(super) struct Early {
    waiting: BTreeMap<NodeIndex, Waiting>,
    /// Senders of messages that were dropped and are needed now.
    reread: BTreeSet<NodeIndex>,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<SignedMessage>,
    bytes: usize,
    /// Plans of messages that were dropped, oldest first.
    dropped: VecDeque<Digest>,
}

impl Waiting {
    fn drop_oldest(&mut self) {
        let Some(oldest) = self.messages.pop_front() else { return };
        self.bytes -= oldest.encode().len();
        self.dropped.retain(|plan| *plan != oldest.plan);
        self.dropped.push_back(oldest.plan);
        if self.dropped.len() > DROPPED_PLANS_MAX {
            self.dropped.pop_front();
        }
    }
}

impl Early {
    pub(super) fn keep(&mut self, message: &SignedMessage) {
        let waiting = self.waiting.entry(message.sender).or_default();
        if waiting.messages.iter().any(|known| known.digest() == message.digest()) {
            return;
        }
        waiting.bytes += message.encode().len();
        waiting.messages.push_back(message.clone());
        while waiting.bytes > SENDER_BYTES_MAX {
            waiting.drop_oldest();
        }
    }

    /// Takes the senders whose words about an accepted plan were dropped since the last call: whoever lets this node read what they
    /// say has to begin again.
    pub(super) fn take_rereads(&mut self) -> BTreeSet<NodeIndex> {
        std::mem::take(&mut self.reread)
    }

    /// Hands over what waits for the round of this plan, each sender's words in their order.
    pub(super) fn take(&mut self, plan: &Digest) -> Vec<SignedMessage> {
        let mut taken = Vec::new();
        for (sender, waiting) in &mut self.waiting {
            if waiting.dropped.contains(plan) {
                waiting.dropped.retain(|dropped| dropped != plan);
                self.reread.insert(*sender);
            }
            let all = std::mem::take(&mut waiting.messages).into_iter();
            let (of_plan, rest): (VecDeque<_>, VecDeque<_>) = all.partition(|message| message.plan == *plan);
            waiting.bytes = rest.iter().map(|message| message.encode().len()).sum();
            waiting.messages = rest;
            taken.extend(of_plan);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::IdentitySecretKey;
    use crate::round::Body;

    fn have(sender: u32, bundle: u16) -> SignedMessage {
        let [high, low] = bundle.to_be_bytes();
        let mut digest = [low; 32];
        digest[0] = high;
        let sender = NodeIndex::new(sender).unwrap();
        let body = Body::Have { dealer: sender, bundle: Digest(digest) };
        SignedMessage::sign(Digest([9; 32]), sender, body, &IdentitySecretKey::from_seed(&[7; 32]))
    }

    #[test]
    fn a_sender_of_too_much_loses_its_own_oldest_messages() {
        let mut early = Early::default();
        early.keep(&have(1, 0));
        for bundle in 0..1_000 {
            early.keep(&have(2, bundle));
            early.keep(&have(2, bundle));
        }
        let kept = early.take(&Digest([9; 32]));
        let (first, second): (Vec<_>, Vec<_>) = kept.iter().partition(|message| message.sender.value() == 1);
        assert_eq!(first, [&have(1, 0)], "another's words went");
        let bytes: usize = second.iter().map(|message| message.encode().len()).sum();
        assert!(bytes <= SENDER_BYTES_MAX, "{bytes} bytes of one sender are kept");
        assert!(second.len() > 200 && second.last() == Some(&&have(2, 999)), "the newest are not what is kept");
        assert!(early.take(&Digest([9; 32])).is_empty(), "what was handed over is kept");
    }

    /// A newcomer hears a round of a hundred before it reads the plan. What is dropped then would never come again.
    #[test]
    fn who_spoke_too_much_too_early_is_read_again() {
        let mut early = Early::default();
        early.keep(&have(1, 0));
        (0..1_000).for_each(|bundle| early.keep(&have(2, bundle)));
        let _ = early.take(&Digest([8; 32]));
        assert!(early.take_rereads().is_empty(), "nothing was dropped that this plan needs");
        let _ = early.take(&Digest([9; 32]));
        assert_eq!(early.take_rereads(), [NodeIndex::new(2).unwrap()].into());
        let _ = early.take(&Digest([9; 32]));
        assert!(early.take_rereads().is_empty(), "once is enough");
    }
}
