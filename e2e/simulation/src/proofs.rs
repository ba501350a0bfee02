//! Proofs of what nodes hold: asked for by peers before they destroy a share, and by operators before they confirm or retire. Which node is
//! asked when, and what counts, is decided by [`keyfleet_threshold::possession`], as in the product.

use std::collections::BTreeMap;

use keyfleet_planner::state::ms;
use keyfleet_threshold::feed::Input;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::possession::{Asked, Challenge, Claimed, Claims, Turn};
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::round::Retirement;
use keyfleet_threshold::serving::signature;

use crate::node::Node;
use crate::world::{Event, Fleet};

impl Fleet {
    /// Retires what the record calls retired, once peers have proven enough.
    pub(crate) fn retire(&mut self, index: NodeIndex) {
        let streams = self.open_streams(index);
        let now_ms = self.now_ms;
        let confirm_after = self.api.now.cluster.spec.epochs.confirm_after_seconds;
        let Some(process) = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()) else { return };
        process.follow(&streams);
        let (life, retire) = (process.life, process.retire.clone());
        match process.holdings.next(&retire, now_ms) {
            Turn::Ask => {
                for from in streams.into_keys() {
                    if !self.loses() {
                        let delay = 1 + self.random(self.settings.delay_max_ms);
                        self.schedule(delay, Event::Prove { to: index, from, life, asked_ms: now_ms });
                    }
                }
            }
            Turn::Use(proofs) => {
                let confirm_after_ms = Some(u64::from(confirm_after) * 1_000);
                let retire = retire
                    .into_iter()
                    .map(|number| Input::Retire(Retirement { number, proofs: proofs.clone(), confirm_after_ms }));
                self.feed(index, &retire.collect::<Vec<_>>());
            }
            Turn::Wait { .. } | Turn::Rest => {}
        }
    }

    /// Takes in a peer's answer to a challenge.
    pub(crate) fn prove(&mut self, to: NodeIndex, from: NodeIndex, life: u64, asked_ms: u64) {
        let streams = self.open_streams(to);
        let asked = self.asked_at(asked_ms);
        let Some(mut claims) = self.nodes[&from].claims(self.cluster, asked) else { return };
        let process = self.nodes.get_mut(&to).and_then(|node| node.process.as_mut());
        let Some(process) = process.filter(|process| process.life == life) else { return };
        process.follow(&streams);
        let state = process.participant.state();
        claims.judge(|number, prover| state.certified_share(number, prover));
        process.holdings.answer(&claims);
    }

    /// Lets an operator ask every node anew whose stream is open.
    pub(crate) fn operator_asks(&mut self, who: usize) {
        let asked_ms = ms(crate::reconcile::now(self.now_ms));
        let operator = &mut self.operators[who];
        operator.transcripts.ask(asked_ms);
        let open: Vec<_> = operator.streams.iter().filter_map(|(index, stream)| Some((*index, stream.life?))).collect();
        for (index, life) in open {
            if !self.loses() {
                let delay = 1 + self.random(self.settings.delay_max_ms);
                self.schedule(delay, Event::OperatorHears { who, index, life, asked_ms });
            }
        }
    }

    /// Takes in a node's answer to an operator's challenge.
    pub(crate) fn operator_hears(&mut self, who: usize, index: u32, life: u64, asked_ms: u64) {
        let asked = self.asked_at(asked_ms);
        let node = NodeIndex::new(index).and_then(|index| self.nodes.get(&index));
        let node = node.filter(|node| node.process.as_ref().is_some_and(|process| process.life == life));
        let Some(claims) = node.and_then(|node| node.claims(self.cluster, asked)) else { return };
        let operator = &mut self.operators[who];
        if operator.streams.get(&index).is_some_and(|stream| stream.life == Some(life)) {
            operator.transcripts.answer(index, claims);
            self.schedule(1, Event::Reconcile(who));
        }
    }

    fn asked_at(&mut self, at_ms: u64) -> Asked {
        let mut challenge = Challenge::default();
        rand_core::Rng::fill_bytes(&mut self.rng, &mut challenge);
        Asked { challenge, at_ms }
    }

    /// Returns the peers whose streams a node reads, each with the process at the other end.
    fn open_streams(&self, index: NodeIndex) -> BTreeMap<NodeIndex, u64> {
        let Some(process) = &self.nodes[&index].process else { return BTreeMap::new() };
        let peers = process.readers.keys().filter_map(|peer| self.nodes.get(peer)).filter(|peer| peer.answers());
        peers.filter_map(|peer| Some((peer.index, peer.process.as_ref()?.life))).collect()
    }
}

impl crate::node::Process {
    /// Notices streams that ended and that began.
    fn follow(&mut self, streams: &BTreeMap<NodeIndex, u64>) {
        for (peer, _) in self.streams.iter().filter(|(peer, life)| streams.get(peer) != Some(life)) {
            self.holdings.disconnect(*peer);
        }
        for (peer, _) in streams.iter().filter(|(peer, life)| self.streams.get(peer) != Some(life)) {
            self.holdings.connect(*peer);
        }
        self.streams.clone_from(streams);
    }
}

impl Node {
    /// Claims of the node when it is asked; `None` where it does not answer.
    pub(crate) fn claims(&self, cluster: ClusterId, asked: Asked) -> Option<Claims> {
        let process = self.process.as_ref().filter(|_| self.answers())?;
        let attempts = process.participant.state().attempts.iter();
        let claimed = attempts.filter_map(|(number, attempt)| {
            let (vector, share) = (attempt.certificate()?.vector, process.participant.share(*number)?);
            let purpose = Purpose::possession(cluster, *number, self.index, &vector, &asked.challenge);
            let possession = signature::sign(&purpose, share).encode().to_vec();
            Some(Claimed { number: *number, vector: Some(vector), possession })
        });
        Some(Claims::of(cluster, self.index, claimed, &asked.challenge, asked))
    }
}
