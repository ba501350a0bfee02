//! The transcripts of a cluster's rounds: signed messages in, the core's decisions out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::coordination::{RoundView, closing, decide};
use keyfleet_threshold::identifiers::{Block, Digest};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::prekey::SignedPrekeySet;
use keyfleet_threshold::round::{SignedMessage, Transcript};

use crate::decide::state::{Closing, Heard};
use keyfleet_api::convert;

/// A round whose record is looked at.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its plan.
    pub spec: KeyEpochSpec,
    /// Its record.
    pub status: Option<KeyEpochStatus>,
    /// The present block.
    pub block: u64,
    /// Whether the present phase outlasted its wall-clock cap.
    pub overdue: bool,
}

/// What nodes of one cluster said.
#[derive(Default)]
pub struct Transcripts {
    connected: BTreeSet<u32>,
    highest: BTreeMap<u32, u64>,
    certified: BTreeMap<u32, u64>,
    rounds: BTreeMap<u64, Transcript>,
}

impl Transcripts {
    /// A node's stream is open, and began with this report.
    pub fn report(&mut self, index: u32, highest: u64, certified: Option<u64>) {
        self.connected.insert(index);
        self.highest.insert(index, highest);
        if let Some(number) = certified {
            self.certified.insert(index, number);
        }
    }

    /// A node's stream ended. What it said stays said.
    pub fn disconnect(&mut self, index: u32) {
        self.connected.remove(&index);
    }

    /// A message of a round. Messages that do not check are dropped; where that proves a fault, the transcript names it.
    pub fn hear(&mut self, number: u64, message: &SignedMessage) {
        if let Some(transcript) = self.rounds.get_mut(&number) {
            let _ = transcript.hear(message);
        }
    }

    /// A prekey set that some plan may name.
    pub fn learn_prekeys(&mut self, set: &SignedPrekeySet) {
        for transcript in self.rounds.values_mut() {
            // Each plan takes the sets that it names and refuses all others.
            let _ = transcript.learn_prekeys(set);
        }
    }

    /// A vector that some round may be dealt on.
    pub fn learn_vector(&mut self, vector: &VerificationVector) {
        for transcript in self.rounds.values_mut() {
            transcript.learn_source(vector.clone());
        }
    }

    /// Digests of signed messages that records name and that were not heard yet: to be fetched from any node.
    #[must_use]
    pub fn wanted(&self, rounds: &[Watched]) -> BTreeSet<Digest> {
        let mut wanted = BTreeSet::new();
        for watched in rounds {
            let Some(transcript) = self.rounds.get(&watched.spec.number) else { continue };
            for digest in named(watched) {
                if transcript.bundle(&digest).is_none() && transcript.response(&digest).is_none() {
                    wanted.insert(digest);
                }
            }
        }
        wanted
    }

    /// Looks at records that can still move: what the core decides on each, and what else follows from what was said.
    pub fn heard(&mut self, rounds: &[Watched]) -> Heard {
        let moving = |watched: &&Watched| {
            let phase = watched.status.as_ref().and_then(|status| status.phase);
            phase != Some(Phase::Failed)
        };
        let numbers: BTreeSet<u64> = rounds.iter().filter(moving).map(|watched| watched.spec.number).collect();
        self.rounds.retain(|number, _| numbers.contains(number));
        let mut heard = Heard {
            connected: self.connected.clone(),
            highest: self.highest.clone(),
            certified: self.certified.clone(),
            ..Heard::default()
        };
        for watched in rounds.iter().filter(moving) {
            let number = watched.spec.number;
            let Ok(plan) = convert::plan_of(&watched.spec) else { continue };
            let transcript = self.rounds.entry(number).or_insert_with(|| Transcript::new(plan.clone(), None));
            transcript.want(named(watched).into_iter());
            let Ok(record) = convert::record_of(&plan, watched.status.as_ref()) else { continue };
            let opened = watched.status.as_ref().and_then(|status| status.phase_block).unwrap_or(watched.block);
            let view = RoundView {
                transcript,
                record: &record,
                opened: Block(opened),
                now: Block(watched.block),
                overdue: watched.overdue,
            };
            let closing = Closing { decision: decide(&view), culprits: closing::culprits(&view) };
            heard.closing.insert(number, closing);
            if let Some(certificate) = &record.certificate {
                let holds = transcript.holds().iter().filter(|(_, vector)| **vector == certificate.vector);
                heard.holds.insert(number, holds.map(|(index, _)| index.value()).collect());
            }
            heard.cheated.extend(transcript.unable().values().flatten().map(|index| index.value()));
        }
        heard
    }
}

fn named(watched: &Watched) -> Vec<Digest> {
    let Some(status) = &watched.status else { return Vec::new() };
    let bundles = status.dealers.iter().flatten().map(|dealer| dealer.bundle_digest);
    let responses = status.responses.iter().flatten().map(|response| response.response_digest);
    bundles.chain(responses).map(|digest| Digest(digest.0)).collect()
}
