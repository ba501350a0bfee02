//! Sources from which nodes learn: the API server through a watch that lags, from their own files, and from peers across a network that
//! delays and loses. What is fed and fetched is decided by [`keyfleet_threshold::feed`], as in the product.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use keyfleet_crds::convert::{plan_of, record_of};
use keyfleet_crds::values::PinnedKey;
use keyfleet_planner::model::Objects;
use keyfleet_planner::state::Epoch;
use keyfleet_threshold::feed::{
    Answer, Input, InputError, ListedEpoch, Listing, Showing, Turns, answer, recall, says_itself, take_all,
};
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::round::{Blob, Outputs, Refusal};

use crate::node::{Node, Reader};
use crate::world::{Event, Fleet, Parsed};

impl Fleet {
    /// Lets a node look around: its own status, the API server's lists, its peers' streams, and what it lacks.
    pub(crate) fn poll(&mut self, index: NodeIndex) {
        if !self.nodes[&index].is_up() {
            return;
        }
        if self.api_up {
            self.write_status(index);
            let lag = self.random(self.settings.watch_lag_writes + 1);
            let seen = self.api.now.revision.saturating_sub(lag);
            if let Some(process) = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()) {
                process.revision = process.revision.max(seen);
            }
        }
        self.feed_listed(index);
        self.follow_peers(index);
        self.retire(index);
    }

    /// Writes a node's own status: the identity that it offers, its prekey, whether it serves.
    fn write_status(&mut self, index: NodeIndex) {
        let node = &self.nodes[&index];
        let Some(process) = &node.process else { return };
        let state = process.participant.state();
        let newest = state.attempts.iter().rev().find(|(_, attempt)| attempt.certificate().is_some());
        let serves = newest.is_some_and(|(number, _)| process.participant.share(*number).is_some());
        let offered = PinnedKey(node.public.0);
        let pin = self.api.now.nodes.get(&index.value()).and_then(|object| object.spec.identity_key);
        let prekey = state.shown_prekey().copied().filter(|_| pin.is_some());
        self.api.write_node(index.value(), |object| {
            object.offered = Some(offered);
            object.ready = serves;
            object.prekey = prekey.or(object.prekey);
        });
    }

    /// Feeds what the node's watch shows and was not fed yet.
    fn feed_listed(&mut self, index: NodeIndex) {
        let Some(process) = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()) else { return };
        let objects = self.api.at(process.revision).clone();
        if process.revision == 0 || (process.fed == Some(objects.revision) && !process.again) {
            return;
        }
        let epochs = listed(&mut self.parsed, &objects);
        let allow_downtime = Some(objects.cluster.spec.allow_downtime);
        let spec = &objects.cluster.spec.epochs;
        let (confirm_after_seconds, retention) = (Some(spec.confirm_after_seconds), Some(spec.retention as usize));
        let listing = Listing { generation: 1, epochs, allow_downtime, confirm_after_seconds, retention };
        let node = self.nodes.get_mut(&index).expect("it was just there");
        let Some(process) = &mut node.process else { return };
        let mut inputs = Vec::new();
        if std::mem::take(&mut node.restored) {
            inputs.push(Input::Abstain(listing.newest_block()));
        }
        let next = process.feed.next(&listing, Some(process.participant.state()), true);
        (process.fed, process.again) = (Some(objects.revision), next.again);
        process.retire = next.retire;
        inputs.extend(next.inputs);
        self.feed(index, &inputs);
    }

    /// Reads on in the streams of the peers that are pinned, and asks them for what is wanted when it is their turn.
    fn follow_peers(&mut self, index: NodeIndex) {
        let Some(process) = &self.nodes[&index].process else { return };
        let (life, wants) = (process.life, process.participant.wants());
        let objects = self.api.at(process.revision);
        let pinned = objects.nodes.iter().filter(|(_, node)| node.spec.identity_key.is_some());
        let peers: BTreeSet<_> =
            pinned.filter_map(|(peer, _)| NodeIndex::new(*peer)).filter(|peer| *peer != index).collect();
        for from in peers.iter().copied() {
            let Some(peer) = self.nodes.get(&from).filter(|peer| peer.answers()) else { continue };
            let Some(at_peer) = &peer.process else { continue };
            let (peer_life, kept) = (at_peer.life, at_peer.participant.state());
            let lineage = peer.disk.outbox.lineage;
            let upto = peer.disk.outbox.rows.keys().next_back().copied().unwrap_or(0);
            let reader = self.nodes[&index].process.as_ref().and_then(|process| process.readers.get(&from));
            let shown = reader.map(|reader| &reader.showing).filter(|(life, _)| *life == peer_life);
            let mut showing = shown.map(|(_, showing)| showing.clone()).unwrap_or_default();
            let shows_more = !showing.next(kept).is_empty();
            let now_ms = self.now_ms;
            let Some(process) = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()) else { return };
            let reader = process.readers.entry(from).or_insert_with(|| Reader {
                position: 0,
                lineage,
                reading: false,
                showing: (peer_life, Showing::default()),
                turns: Turns::new(index, from),
            });
            if reader.lineage != lineage {
                (reader.position, reader.lineage) = (0, lineage);
            }
            reader.turns.want(&wants, &peers, now_ms);
            let digests = reader.turns.due(now_ms);
            let reads = !reader.reading && (reader.position < upto || shows_more);
            if reads && !self.loses() {
                self.reader(index, from).reading = true;
                let delay = 1 + self.random(self.settings.delay_max_ms);
                self.schedule(delay, Event::Read { to: index, from, life, upto });
            }
            if !digests.is_empty() && !self.loses() {
                let delay = 1 + self.random(self.settings.delay_max_ms);
                self.schedule(delay, Event::Fetch { to: index, from, life, digests });
            }
        }
    }

    fn reader(&mut self, index: NodeIndex, from: NodeIndex) -> &mut Reader {
        let process = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()).expect("it reads");
        process.readers.get_mut(&from).expect("it reads this peer")
    }

    fn is_alive(&self, index: NodeIndex, life: u64) -> bool {
        self.nodes[&index].process.as_ref().is_some_and(|process| process.life == life)
    }

    /// Takes in what a peer's stream shows: the epochs that it keeps, then rows in their order.
    pub(crate) fn read(&mut self, to: NodeIndex, from: NodeIndex, life: u64, upto: u64) {
        if !self.is_alive(to, life) {
            return;
        }
        let lineage = self.nodes[&from].disk.outbox.lineage;
        let reader = self.reader(to, from);
        reader.reading = false;
        if reader.lineage != lineage {
            return;
        }
        // A later read may have come first.
        let after = reader.position;
        reader.position = after.max(upto);
        let mut inputs = self.shown_to(to, from);
        let rows = self.nodes[&from].disk.outbox.rows.range(after + 1..(upto + 1).max(after + 1));
        let rows = rows.filter(|(_, row)| !row.is_hidden);
        // An equivocator shows each peer one of its two faces.
        let face = usize::from(to.value().is_multiple_of(2));
        let rows = rows.filter_map(|(_, row)| row.faces.get(face).or_else(|| row.faces.first()));
        let own = rows.filter(|blob| says_itself(blob, from));
        inputs.extend(own.map(|blob| Input::Blob(blob.as_ref().clone())));
        self.feed(to, &inputs);
    }

    /// Returns the kept epochs that a peer has not shown on its stream yet, as its behaviour bends them. A process that starts
    /// again begins a new stream.
    fn shown_to(&mut self, to: NodeIndex, from: NodeIndex) -> Vec<Input> {
        let Some(process) = self.nodes[&from].process.as_ref().filter(|_| self.nodes[&from].answers()) else {
            return Vec::new();
        };
        let (life, state, behaviour) = (process.life, process.participant.state(), self.nodes[&from].behaviour);
        let reader = self.nodes[&to].process.as_ref().and_then(|process| process.readers.get(&from));
        let before = reader.map(|reader| &reader.showing).filter(|(before, _)| *before == life);
        let mut showing = before.map(|(_, showing)| showing.clone()).unwrap_or_default();
        let shown = showing.next(state).into_iter().filter_map(|shown| behaviour.bend_shown(shown));
        let shown = shown.map(|shown| Input::Shown(from, shown)).collect();
        self.reader(to, from).showing = (life, showing);
        shown
    }

    /// Takes in a peer's answer to a `Fetch`.
    pub(crate) fn fetch(&mut self, to: NodeIndex, from: NodeIndex, life: u64, digests: &[Digest]) {
        if !self.is_alive(to, life) || !self.nodes[&from].answers() {
            return;
        }
        let wanted: BTreeSet<_> = digests.iter().copied().collect();
        let found = self.nodes[&from].hand_out(&wanted, false);
        let inputs: Vec<_> = found.into_values().map(Input::Blob).collect();
        self.feed(to, &inputs);
    }

    /// Gives a node facts that came together, and what its own file then adds; carries out what they lead to, with a chance
    /// of dying on the way.
    pub(crate) fn feed(&mut self, index: NodeIndex, inputs: &[Input]) {
        let Some(node) = self.nodes.get_mut(&index) else { return };
        let Some(process) = &mut node.process else { return };
        let mut owed = None;
        for (_, error) in take_all(inputs, &mut process.participant, self.now_ms, &mut self.rng, &mut owed) {
            match error {
                // An old attempt that the node has forgotten is listed for a while.
                InputError::Refusal(Refusal::NumberNotAbove { .. }) => {}
                InputError::Refusal(refusal) => panic!("node {index}: an honest operator's plan is refused: {refusal}"),
                _ => {}
            }
        }
        self.carry_out(index, owed.unwrap_or_default());
        let Some(node) = self.nodes.get_mut(&index) else { return };
        let Node { process: Some(process), disk, .. } = node else { return };
        let mut found = None;
        let kept = |digest: &Digest| Ok::<_, Infallible>(disk.blobs.get(digest).map(|blob| blob.as_ref().clone()));
        let Ok(()) = recall(&mut process.participant, kept, &mut self.rng, &mut found);
        if let Some(outputs) = found {
            self.carry_out(index, outputs);
        }
        self.date(index);
    }

    /// Dates activations that are durable.
    fn date(&mut self, index: NodeIndex) {
        let now_ms = self.now_ms;
        let process = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut());
        if let Some(process) = process.filter(|process| process.participant.has_undated()) {
            let dated = process.participant.date(now_ms);
            self.carry_out(index, dated);
        }
    }

    fn carry_out(&mut self, index: NodeIndex, outputs: Outputs) {
        let idle = !outputs.commit && outputs.create.is_empty() && outputs.destroy.is_empty();
        let crash_at =
            (!idle && self.chance(self.settings.crash_per_10k, 10_000)).then(|| self.random(u64::from(u32::MAX)));
        let crash_at = crash_at.and_then(|at| u32::try_from(at).ok());
        let node = self.nodes.get_mut(&index).expect("only nodes that exist are fed");
        node.carry_out(outputs, crash_at);
        if !node.is_up() {
            let away = 500 + self.random(20_000);
            self.schedule(away, Event::Restart(index));
            self.count("fault: a node dies between two steps");
            self.log(format!("node {index} dies at step {}", crash_at.unwrap_or_default() % 5));
        }
    }
}

impl Node {
    /// Returns what the node hands out for these digests, to the operator or to a peer.
    pub(crate) fn hand_out(&self, wanted: &BTreeSet<Digest>, to_operator: bool) -> BTreeMap<Digest, Blob> {
        let Some(process) = &self.process else { return BTreeMap::new() };
        let state = process.participant.state();
        let found = answer(wanted, state, &self.own_messages(to_operator)).into_iter();
        let found = found.filter_map(|(digest, answer)| {
            let blob = match answer {
                Answer::Said(message) => Blob::Message(message.as_ref().clone()),
                Answer::Vector(vector) => Blob::Vector(vector),
                Answer::Kept => {
                    let kept = self.disk.blobs.get(&digest)?.as_ref();
                    let own = matches!(kept, Blob::Message(message) if message.sender == state.index);
                    if own { None } else { Some(kept.clone()) }?
                }
            };
            Some((digest, blob))
        });
        let mut found: BTreeMap<_, _> = found.collect();
        found.values_mut().for_each(|blob| self.behaviour.bend_found(blob));
        found
    }
}

fn listed(parsed: &mut Parsed, objects: &Objects) -> BTreeMap<EpochNumber, ListedEpoch> {
    let mut epochs = BTreeMap::new();
    for (number, epoch) in &objects.epochs {
        let known = parsed.get(number).filter(|(version, _)| *version == epoch.resource_version);
        let listed = match known {
            Some((_, listed)) => listed.clone(),
            None => {
                let listed = parse(epoch);
                parsed.insert(*number, (epoch.resource_version.clone(), listed.clone()));
                listed
            }
        };
        if let Some(listed) = listed {
            epochs.insert(EpochNumber(*number), listed);
        }
    }
    epochs
}

fn parse(epoch: &Epoch) -> Option<ListedEpoch> {
    let plan = plan_of(&epoch.spec).ok()?;
    let record = record_of(&plan, epoch.status.as_ref()).ok().flatten();
    Some(ListedEpoch { plan, record })
}
