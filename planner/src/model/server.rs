//! The objects as the API server keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KeyEpochStatus, KmsClusterSpec, KmsClusterStatus, KmsNodeSpec};
use keyfleet_threshold::plan::PlanVersion;

use crate::key_epoch;
use crate::state::{BlockError, Cluster, Epoch, Lag, Node, Recorded, Retention, State};
use crate::view::StreamView;
use crate::{Action, erasure, rules};

/// Revisions that a lagging reader may still see.
const PAST_MAX: usize = 256;

/// All objects of one cluster at one revision. A copy costs little: objects are shared until they change.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Grows with every write. Each object's version is the revision that wrote it.
    pub revision: u64,
    /// The `KmsCluster`.
    pub cluster: Arc<Cluster>,
    /// The `KmsNode`s by index.
    pub nodes: BTreeMap<u32, Arc<Node>>,
    /// The `KeyEpoch`s by number.
    pub epochs: BTreeMap<u64, Arc<Epoch>>,
    /// The ConfigMap `<cluster>-record`, with its version.
    pub record: Option<(u64, Arc<Record>)>,
}

/// The answer to a write that is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RefusalError {
    /// The object changed since the version that the write names, or is there already.
    #[error("409: the object is not as the write says it was read")]
    Conflict,
    /// There is no such object.
    #[error("404: there is no such object")]
    NotFound,
    /// A rule of the kind refuses it.
    #[error("422: {0}")]
    Invalid(&'static str),
    /// The disruption budget refuses an eviction.
    #[error("429: the pod may not be evicted now")]
    Evict,
}

/// The API server: the present objects, and the past that lagging watches show.
#[derive(Clone, Debug)]
pub struct Server {
    /// The objects as they are.
    pub now: Objects,
    past: VecDeque<Objects>,
}

impl Objects {
    /// Returns the epochs that are active or confirmed, ascending.
    pub fn served(&self) -> impl DoubleEndedIterator<Item = (u64, &Epoch)> {
        let served = self.epochs.iter().filter(|(_, epoch)| key_epoch::serves(epoch.status.as_ref()));
        served.map(|(number, epoch)| (*number, epoch.as_ref()))
    }

    /// Returns the state that an operator decides on when it reads these objects now.
    #[must_use]
    pub fn state(
        &self,
        view: StreamView,
        block: Result<u64, BlockError>,
        last_block: u64,
        starved_since: Option<u64>,
        now: Timestamp,
    ) -> State {
        State {
            cluster: self.cluster.as_ref().clone(),
            nodes: self.nodes.iter().map(|(index, node)| (*index, node.as_ref().clone())).collect(),
            epochs: self.epochs.iter().map(|(number, epoch)| (*number, epoch.as_ref().clone())).collect(),
            record: self.recorded(),
            volumes: BTreeMap::new(),
            namespace_ends: false,
            finalizers: true,
            pods_left: false,
            deleted_at: None,
            view,
            block,
            last_block,
            starved_since,
            eviction_refused: None,
            retention: Retention::default(),
            now,
        }
    }

    /// Returns the ConfigMap `<cluster>-record` as a state shows it.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        match &self.record {
            None => Recorded::Absent,
            Some((version, record)) => {
                Recorded::Present { resource_version: version.to_string(), record: Box::new(record.as_ref().clone()) }
            }
        }
    }
}

impl Server {
    /// Holds a `KmsCluster` that was just applied, and nothing else.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let cluster = Arc::new(Cluster { resource_version: "1".into(), ..cluster });
        let (nodes, epochs) = (BTreeMap::new(), BTreeMap::new());
        let now = Objects { revision: 1, cluster, nodes, epochs, record: None };
        Self { now, past: VecDeque::new() }
    }

    /// Returns the objects at a revision, as a watch that has come so far shows them. One that is too far behind is shown the
    /// oldest that is kept, as a new list would be.
    #[must_use]
    pub fn at(&self, revision: u64) -> &Objects {
        if revision >= self.now.revision {
            return &self.now;
        }
        self.past.iter().find(|objects| objects.revision >= revision).unwrap_or(&self.now)
    }

    /// Carries out one write of an operator, as its executor does. A post under a reserved number that is taken, and a deletion of
    /// what is gone, succeed.
    ///
    /// # Errors
    /// The refusal. Nothing has changed then.
    pub fn execute(&mut self, action: Action, minted: ClusterId) -> Result<(), RefusalError> {
        let mut next = self.now.clone();
        if next.carry_out(action, minted)? {
            self.commit(next);
        }
        Ok(())
    }

    /// The user edits the `KmsCluster`'s spec.
    pub fn edit(&mut self, edit: impl FnOnce(&mut KmsClusterSpec)) {
        self.change(|objects, version| {
            let cluster = Arc::make_mut(&mut objects.cluster);
            edit(&mut cluster.spec);
            cluster.generation += 1;
            cluster.resource_version = version.to_string();
        });
    }

    /// The user annotates the `KmsCluster`, which asks for a round.
    pub fn request_reshare(&mut self, word: &str) {
        self.change(|objects, version| {
            let cluster = Arc::make_mut(&mut objects.cluster);
            cluster.reshare_request = Some(word.to_owned());
            cluster.resource_version = version.to_string();
        });
    }

    /// Somebody who may write everything changes the record of a round, past all rules.
    pub fn write_record(&mut self, number: u64, write: impl FnOnce(&mut KeyEpochStatus)) {
        self.change(|objects, version| {
            if let Some(epoch) = objects.epochs.get_mut(&number).map(Arc::make_mut) {
                write(epoch.status.get_or_insert_default());
                epoch.resource_version = version.to_string();
            }
        });
    }

    /// A node, or the controller of its pod, writes its status. A write that changes nothing is no write.
    pub fn write_node(&mut self, index: u32, write: impl FnOnce(&mut Node)) {
        let Some(before) = self.now.nodes.get(&index) else { return };
        let mut node = before.as_ref().clone();
        write(&mut node);
        if node == **before {
            return;
        }
        self.change(|objects, version| {
            node.resource_version = version.to_string();
            objects.nodes.insert(index, Arc::new(node));
        });
    }

    /// The user deletes a `KmsNode`, which stays until its finalizer is gone.
    pub fn delete_node(&mut self, index: u32) {
        self.write_node(index, |node| node.deleting = true);
    }

    /// Somebody deletes a `KeyEpoch`. Returns false where its finalizer holds it.
    pub fn delete_epoch(&mut self, number: u64) -> bool {
        let goes = self.now.epochs.get(&number).is_some_and(|epoch| !epoch.finalizer);
        if goes {
            self.change(|objects, _| drop(objects.epochs.remove(&number)));
        }
        goes
    }

    /// All objects deleted and put back as a backup of manifests would: specs, no status. The record stays.
    pub fn lose_status(&mut self) {
        self.change(|objects, version| {
            let cluster = Arc::make_mut(&mut objects.cluster);
            cluster.status = KmsClusterStatus::default();
            cluster.finalizer = false;
            cluster.resource_version = version.to_string();
            for epoch in objects.epochs.values_mut() {
                let epoch = Arc::make_mut(epoch);
                epoch.status = None;
                epoch.resource_version = version.to_string();
            }
        });
    }

    /// A backup of etcd is restored: the objects are as they were. Watches see it as a newer list.
    pub fn restore(&mut self, backup: &Objects) {
        self.commit(backup.clone());
    }

    fn change(&mut self, change: impl FnOnce(&mut Objects, u64)) {
        let mut next = self.now.clone();
        change(&mut next, self.now.revision + 1);
        self.commit(next);
    }

    fn commit(&mut self, next: Objects) {
        let revision = self.now.revision + 1;
        let before = std::mem::replace(&mut self.now, Objects { revision, ..next });
        self.past.push_back(before);
        self.past.drain(..self.past.len().saturating_sub(PAST_MAX));
    }
}

impl Objects {
    /// Returns whether anything changed.
    fn carry_out(&mut self, action: Action, minted: ClusterId) -> Result<bool, RefusalError> {
        let revision = self.revision + 1;
        let version = revision.to_string();
        match action {
            Action::SetClusterFinalizer { present } => {
                let cluster = Arc::make_mut(&mut self.cluster);
                cluster.finalizer = present;
                cluster.resource_version = version;
            }
            Action::MintClusterId { resource_version, mut status } => {
                status.cluster_id = Some(minted);
                self.update_cluster(&resource_version, *status, version)?;
            }
            Action::UpdateCluster { resource_version, status } => {
                self.update_cluster(&resource_version, *status, version)?;
            }
            Action::CreateEpoch(spec) => {
                let number = spec.number;
                if self.epochs.contains_key(&number) {
                    return Ok(false);
                }
                let epoch = Epoch { resource_version: version, finalizer: false, spec: *spec, status: None };
                self.epochs.insert(number, Arc::new(epoch));
            }
            Action::UpdateEpoch { number, resource_version, status } => {
                let epoch = Arc::make_mut(self.epochs.get_mut(&number).ok_or(RefusalError::NotFound)?);
                unchanged(&epoch.resource_version, &resource_version)?;
                rules::epoch(epoch.status.as_ref(), &status).map_err(RefusalError::Invalid)?;
                epoch.status = Some(*status);
                epoch.resource_version = version;
            }
            Action::SetEpochFinalizer { number, present } => match self.epochs.get_mut(&number) {
                Some(epoch) if epoch.finalizer != present => {
                    let epoch = Arc::make_mut(epoch);
                    epoch.finalizer = present;
                    // A merge patch moves the version like every write.
                    epoch.resource_version = version;
                }
                _ => return Ok(false),
            },
            Action::DeleteEpoch { number } => {
                if self.epochs.get(&number).is_none_or(|epoch| epoch.finalizer) {
                    return Ok(false);
                }
                self.epochs.remove(&number);
            }
            Action::CreateNode(spec) => {
                let index = spec.index;
                if self.nodes.contains_key(&index) {
                    return Ok(false);
                }
                self.nodes.insert(index, Arc::new(new_node(*spec, version)));
            }
            Action::UpdateNode { resource_version, spec } => {
                let node = Arc::make_mut(self.nodes.get_mut(&spec.index).ok_or(RefusalError::NotFound)?);
                unchanged(&node.resource_version, &resource_version)?;
                rules::node(&node.spec, &spec).map_err(RefusalError::Invalid)?;
                node.spec = *spec;
                node.resource_version = version;
            }
            Action::NoteErasure { index, resource_version, erased_through, last_epoch } => {
                let node = Arc::make_mut(self.nodes.get_mut(&index).ok_or(RefusalError::NotFound)?);
                unchanged(&node.resource_version, &resource_version)?;
                rules::erasure(node, erased_through, last_epoch).map_err(RefusalError::Invalid)?;
                (node.erased_through, node.last_epoch) = (erased_through, last_epoch);
                node.erased |= erasure::is_proven(node.spec.removed, last_epoch, erased_through);
                node.resource_version = version;
            }
            Action::ReleaseNode { index } => {
                if self.nodes.get(&index).is_none_or(|node| !node.deleting) {
                    return Ok(false);
                }
                self.remove_node(index);
            }
            Action::DeleteNode { index } => self.remove_node(index),
            Action::Evict { index } => {
                let outdated = self.nodes.get(&index).is_some_and(|node| node.outdated);
                return if outdated { Ok(false) } else { Err(RefusalError::Evict) };
            }
            Action::WriteRecord { resource_version, record } => {
                let current = self.record.as_ref().map(|(version, _)| version.to_string());
                if current != resource_version {
                    return Err(RefusalError::Conflict);
                }
                self.record = Some((revision, Arc::new(*record)));
            }
            Action::DeleteRecord => self.record = None,
        }
        Ok(true)
    }

    fn remove_node(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    fn update_cluster(&mut self, read: &str, status: KmsClusterStatus, version: String) -> Result<(), RefusalError> {
        unchanged(&self.cluster.resource_version, read)?;
        rules::cluster(&self.cluster.status, &status).map_err(RefusalError::Invalid)?;
        let cluster = Arc::make_mut(&mut self.cluster);
        cluster.status = status;
        cluster.resource_version = version;
        Ok(())
    }
}

fn unchanged(version: &str, read: &str) -> Result<(), RefusalError> {
    if version == read { Ok(()) } else { Err(RefusalError::Conflict) }
}

fn new_node(spec: KmsNodeSpec, version: String) -> Node {
    Node {
        resource_version: version,
        deleting: false,
        spec,
        offered: None,
        prekey: None,
        ready: false,
        outdated: false,
        problems: Vec::new(),
        worker: None,
        zone: None,
        volume_handle: None,
        position: None,
        lag: Lag::default(),
        erased_through: None,
        last_epoch: None,
        erased: false,
        plan_versions: vec![PlanVersion::NEWEST.number()],
    }
}
