//! How nodes learn: from the API server, from their own files, and from peers across a network that delays and loses.

use std::rc::Rc;

use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::round::{Blob, MessageKind, Phase, Verdict};

use crate::fleet::{Event, Fleet};

impl Fleet {
    /// A node looks around: the record, its offers, what it lacks, and its peers' streams.
    pub(crate) fn poll(&mut self, index: NodeIndex) {
        if !self.nodes[&index].is_up() {
            return;
        }
        self.offer(index);
        self.follow_record(index);
        self.fetch(index);
        let peers: Vec<_> = self.answering().into_iter().filter(|peer| *peer != index).collect();
        for from in peers {
            let published: Vec<_> = self.nodes[&from].published.iter().map(|(key, (d, _))| (*key, *d)).collect();
            for (key, digest) in published {
                let node = &self.nodes[&index];
                // An equivocator shows each peer one of its two faces.
                let hidden = (key.1 >= 1_000) != (index.value().is_multiple_of(2) && self.has_two_faces(from, key));
                let known = node.seen.contains(&digest) || self.in_flight.contains(&(index, digest));
                if known || hidden || self.chance(self.settings.loss_permille, 1_000) {
                    continue;
                }
                self.in_flight.insert((index, digest));
                let delay = 1 + self.random(self.settings.delay_max_ms);
                self.schedule(delay, Event::Deliver { to: index, from, key });
            }
        }
    }

    fn has_two_faces(&self, from: NodeIndex, key: (EpochNumber, usize, MessageKind)) -> bool {
        self.nodes[&from].published.contains_key(&(key.0, key.1 % 1_000 + 1_000, key.2))
    }

    /// The node writes its offers into its own status.
    fn offer(&mut self, index: NodeIndex) {
        if let Some(process) = &self.nodes[&index].process {
            self.api.offers.insert(index, process.offers().cloned().collect());
        }
    }

    /// The node reads every plan, oldest first, and then every record.
    fn follow_record(&mut self, index: NodeIndex) {
        let epochs = self.api.epochs.iter();
        let new: Vec<_> = epochs
            .filter(|(number, epoch)| {
                // A finished attempt that this node never saw concerns it only while it is kept.
                let over = matches!(epoch.record.phase, Phase::Failed | Phase::Retired);
                let process = self.nodes[&index].process.as_ref();
                !over && process.is_some_and(|process| **number > process.state().highest)
            })
            .map(|(_, epoch)| (*epoch.plan).clone())
            .collect();
        for plan in new {
            self.with(index, |process, rng| match process.accept(plan, rng) {
                Ok(outputs) => outputs,
                Err(refusal) => panic!("an honest operator's plan is refused: {refusal}"),
            });
        }
        let Some(process) = &self.nodes[&index].process else { return };
        let attempts = &process.state().attempts;
        let records: Vec<_> = attempts
            .iter()
            .filter(|(_, attempt)| !attempt.erased && attempt.verdict != Some(Verdict::Failed))
            .filter_map(|(number, _)| Some((*number, self.api.epochs.get(number)?.record.clone())))
            .collect();
        for (number, record) in records {
            if record.phase == Phase::Retired {
                self.with(index, |process, _| process.retire(number).unwrap_or_default());
            } else {
                self.with(index, |process, rng| process.observe(number, &record, rng).unwrap_or_default());
            }
        }
    }

    /// The node fetches what its machine wants: from its own file, the API server, then its peers.
    fn fetch(&mut self, index: NodeIndex) {
        for _ in 0..4 {
            let Some(process) = &self.nodes[&index].process else { return };
            let wants = process.wants();
            let mut progress = false;
            for want in wants {
                let Some(blob) = self.find(index, &want.digest) else { continue };
                progress = true;
                self.with(index, |process, rng| process.learn(&blob, rng).unwrap_or_default());
            }
            if !progress {
                return;
            }
        }
    }

    /// Asks every answering node for a signed message by its digest, as the operator does.
    pub fn fetch_for_operator(&mut self, digest: &Digest) -> Option<Rc<Blob>> {
        let lost = self.loses();
        let peers = self.answering();
        let found = || peers.iter().find_map(|peer| self.nodes[peer].disk.blobs.get(digest).cloned());
        if lost { None } else { found() }
    }

    fn find(&mut self, index: NodeIndex, digest: &Digest) -> Option<Rc<Blob>> {
        if let Some(blob) = self.nodes[&index].disk.blobs.get(digest) {
            return Some(blob.clone());
        }
        let offers = self.api.offers.values().flatten();
        if let Some(offer) = offers.into_iter().find(|offer| offer.digest() == *digest) {
            return Some(Rc::new(Blob::Prekeys(offer.clone())));
        }
        let peers: Vec<_> = self.answering().into_iter().filter(|peer| *peer != index).collect();
        peers.into_iter().find_map(|peer| {
            if self.chance(self.settings.loss_permille, 1_000) {
                return None;
            }
            let node = &self.nodes[&peer];
            let vector = || node.process.as_ref()?.vector(digest).map(|v| Rc::new(Blob::Vector(v.clone())));
            node.disk.blobs.get(digest).cloned().or_else(vector)
        })
    }

    pub(crate) fn deliver(&mut self, to: NodeIndex, from: NodeIndex, key: (EpochNumber, usize, MessageKind)) {
        let Some((digest, message)) = self.nodes[&from].published.get(&key).cloned() else { return };
        self.in_flight.remove(&(to, digest));
        let node = self.nodes.get_mut(&to).expect("deliveries go to nodes that exist");
        if node.process.is_none() {
            return;
        }
        // Once, also where it comes before its plan: a stream goes on and brings nothing again.
        node.seen.insert(digest);
        let blob = Blob::Message((*message).clone());
        self.with(to, |process, rng| process.learn(&blob, rng).unwrap_or_default());
    }
}
