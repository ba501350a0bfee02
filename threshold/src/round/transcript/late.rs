//! Late complaints: said after the freeze by receivers that were away. Each proves its dealer guilty, or its sender, and changes nothing
//! about the epoch.
//!
//! Judging costs a pairing, so what liars make others judge is bounded: nothing about bundles that no record froze, nothing about
//! dealers that are guilty already, nothing of a sender after its first false complaint, and of each sender about each dealer once. With f
//! liars that makes 2f judgements at most, however much they say.

use std::collections::BTreeSet;

use super::{KEPT_OF_ONE_SENDER, Transcript};
use crate::identifiers::NodeIndex;
use crate::round::bundle::Guilt;
use crate::round::complaint::Complaint;
use crate::round::culprit::Offence;
use crate::round::message::SignedMessage;

/// Late complaints of one sender.
#[derive(Clone, Default)]
pub(super) struct LateWords {
    /// Messages that came first, with complaints that may still have to be judged.
    messages: Vec<SignedMessage>,
    /// Dealers about whom it was judged.
    judged: BTreeSet<NodeIndex>,
    /// True once it complained falsely: nothing else that it says late is judged.
    is_refuted: bool,
}

impl Transcript {
    /// Takes up a late message, and judges what can be judged. Returns false where its sender had said enough before.
    pub(super) fn hear_late(&mut self, message: &SignedMessage) -> bool {
        let words = self.late.entry(message.sender).or_default();
        if words.is_refuted || words.messages.len() >= KEPT_OF_ONE_SENDER {
            return false;
        }
        words.messages.push(message.clone());
        self.judge_late_of(message.sender);
        true
    }

    /// Judges the late complaints that waited: for a bundle, or for the record that froze it.
    pub(super) fn judge_late(&mut self) {
        for sender in self.late.keys().copied().collect::<Vec<_>>() {
            self.judge_late_of(sender);
        }
    }

    fn judge_late_of(&mut self, sender: NodeIndex) {
        let Some(mut words) = self.late.remove(&sender) else { return };
        let mut accused = BTreeSet::new();
        for message in &words.messages {
            // About each dealer the first counts, whether or not it can be judged yet.
            for complaint in message.body.complaints().iter().filter(|complaint| accused.insert(complaint.dealer)) {
                if !words.is_refuted && !words.judged.contains(&complaint.dealer) && self.can_judge(complaint) {
                    words.judged.insert(complaint.dealer);
                    words.is_refuted = self.judge_late_complaint(message, complaint);
                }
            }
        }
        self.late.insert(sender, words);
    }

    fn can_judge(&self, complaint: &Complaint) -> bool {
        self.wanted.contains(&complaint.bundle) && self.bundles.contains_key(&complaint.bundle)
    }

    /// Judges a complaint about a frozen bundle that is known. Returns true where it is false.
    fn judge_late_complaint(&mut self, message: &SignedMessage, complaint: &Complaint) -> bool {
        let bundle = &self.bundles[&complaint.bundle];
        let is_of_dealer = bundle.dealer() == complaint.dealer;
        if is_of_dealer && self.culprits.contains_key(&complaint.dealer) {
            return false;
        }
        let sender = message.sender;
        let (guilty, offence) = match is_of_dealer.then(|| bundle.judge(&self.plan, sender, complaint)) {
            Some(Guilt::Dealer) => (complaint.dealer, Offence::BadShare(sender)),
            Some(Guilt::Complainer) | None => (sender, Offence::FalseComplaint(complaint.dealer)),
        };
        self.blame(guilty, offence, vec![complaint.bundle, message.digest()], &[message]);
        guilty == sender
    }
}
