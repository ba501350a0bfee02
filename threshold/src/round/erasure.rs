//! Erasure: what a retired epoch leaves, and when a node says that nothing of it is left.
//!
//! Bundles are public, so an epoch is gone when its share is, and no living prekey opens what was sealed in its round or in an
//! attempt that was dealt on it. Each living prekey therefore remembers how far back it reaches
//! ([`PersistentState::prekey_reach`](super::PersistentState)), and `Erased` of an epoch is said once none reaches it. It speaks
//! for everything at or below that epoch which the newest record does not list as kept: whoever reads it needs the highest
//! alone.

use rand_core::CryptoRng;

use super::kept_list::listed;
use super::message::{Body, SignedMessage};
use super::outputs::Outputs;
use super::participant::Participant;
use super::state::{SecretName, Verdict};
use crate::identifiers::EpochNumber;
use crate::plan::ValidPlan;

/// Number of retired epochs that stay in the state, so that late observers still read `Erased`.
const RETIRED_LISTED: usize = 8;

impl Participant {
    /// Retires an epoch: destroys the share, and says `Erased` as soon as that is true.
    pub(super) fn erase(&mut self, number: EpochNumber, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let Some(attempt) = self.state.attempts.get_mut(&number) else { return };
        if !attempt.retired {
            attempt.retired = true;
            attempt.holds_share = false;
            attempt.outbox.clear();
            attempt.dealers = None;
            attempt.frozen = None;
            attempt.qualified = None;
            attempt.source = None;
            out.commit = true;
        }
        if self.secrets.shares.remove(&number).is_some() {
            out.destroy.push(SecretName::Share(number));
        }
        self.transcripts.remove(&number);
        self.tend_prekeys(rng, out);
        self.forget_retired();
    }

    /// Signs `Erased` for retired epochs, oldest first, up to the first of which something may live: a share that is not retired
    /// yet, or what a living prekey opens.
    pub(super) fn say_erased(&mut self, out: &mut Outputs) {
        let newest = self.state.newest_epoch();
        let record = newest.and_then(|(number, attempt)| listed(self.records.get(&number)?, attempt));
        let kept = record.unwrap_or_default().to_vec();
        let reached = self.state.prekey_reach.values().min().copied();
        let me = self.state.index;
        for (number, attempt) in &mut self.state.attempts {
            if attempt.erased || attempt.verdict == Some(Verdict::Failed) || kept.contains(number) {
                continue;
            }
            if !attempt.retired || reached.is_some_and(|reached| reached <= *number) {
                return;
            }
            attempt.erased = true;
            out.commit = true;
            if attempt.plan.receiver(me).is_some() {
                let message = SignedMessage::sign(attempt.plan.digest(), me, Body::Erased, &self.identity);
                attempt.outbox.push(message.clone());
                out.say.push(message);
            }
        }
    }

    /// Drops the oldest retired epochs from the state: what they still need is said by a newer one. The newest in which the node
    /// had a part stays, so that a removed node knows that it is one.
    pub(super) fn forget_retired(&mut self) {
        let retired = self.state.attempts.iter().rev().filter(|(_, attempt)| attempt.retired);
        let mut old: Vec<_> = retired.map(|(number, _)| *number).skip(RETIRED_LISTED).collect();
        let had_part =
            self.state.attempts.iter().rev().find(|(_, attempt)| {
                attempt.certificate().is_some() && attempt.plan.receiver(self.state.index).is_some()
            });
        let last = had_part.map(|(number, _)| *number);
        old.retain(|number| Some(*number) != last);
        for number in old {
            self.state.attempts.remove(&number);
            self.records.remove(&number);
        }
    }

    /// Notes how far back the prekey reaches that a plan names for this node: to the plan, and to the epoch that it is dealt on.
    ///
    /// Where numbers were `missed`, plans that the node never saw may have named any living prekey, dealt on any epoch.
    pub(super) fn note_reach(&mut self, plan: &ValidPlan, missed: bool) {
        if missed {
            let living = self.state.prekeys.keys();
            self.state.prekey_reach = living.map(|prekey| (*prekey, EpochNumber(0))).collect();
        }
        let Some(named) = self.own_prekey(plan).map(crate::prekey::PrekeySecret::number) else { return };
        let oldest = plan.source().map_or(plan.number, |source| source.number.min(plan.number));
        let reach = self.state.prekey_reach.entry(named).or_insert(oldest);
        *reach = oldest.min(*reach);
    }
}
