//! Rules, pins and addresses as they were last read at the API server. Sealed rows of the state file keep them over a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyfleet_api::tls::Pins;
use keyfleet_crds::cluster::Access;
use keyfleet_crds::values::PinnedKey;
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentityPublicKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::runtime::Addresses;
use crate::seal::KeyMaterial;
use crate::store::{Store, StoreError};

const RULES: &str = "rules";
const PEERS: &str = "peers";

/// Cache of the API server's objects. Clones share it.
#[derive(Clone)]
pub(crate) struct LastKnown {
    pins: Pins,
    access: watch::Sender<Arc<Access>>,
    peers: watch::Sender<Peers>,
    addresses: watch::Sender<Addresses>,
}

/// Pins and addresses as a row of the state file.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Peers(BTreeMap<u32, Peer>);

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Peer {
    pin: PinnedKey,
    address: String,
}

/// Reads a row. One that this release cannot read counts as absent: the API server has what it said.
fn read_row<T: Default + DeserializeOwned>(store: &Store, name: &str, node_key: &KeyMaterial) -> Result<T, StoreError> {
    Ok(store.access(name, node_key)?.and_then(|row| serde_json::from_slice(&row).ok()).unwrap_or_default())
}

impl LastKnown {
    /// Takes up what the state file remembers. Without rules nothing is allowed.
    ///
    /// # Errors
    /// When a row does not open.
    pub(crate) fn recall(store: &Store, node_key: &KeyMaterial) -> Result<Self, StoreError> {
        let access: Access = read_row(store, RULES, node_key)?;
        let peers: Peers = read_row(store, PEERS, node_key)?;
        let known = Self {
            pins: Pins::default(),
            access: watch::Sender::new(Arc::new(access)),
            peers: watch::Sender::new(peers.clone()),
            addresses: watch::Sender::new(Addresses::new()),
        };
        known.take_up(&peers);
        Ok(known)
    }

    /// The pins, which TLS compares with.
    #[must_use]
    pub(crate) fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// The access rules, as they change.
    #[must_use]
    pub(crate) fn access(&self) -> watch::Receiver<Arc<Access>> {
        self.access.subscribe()
    }

    /// Where peers are, as it changes.
    #[must_use]
    pub(crate) fn addresses(&self) -> watch::Receiver<Addresses> {
        self.addresses.subscribe()
    }

    pub(super) fn set_access(&self, access: Access) {
        self.access.send_if_modified(|before| {
            let changed = **before != access;
            if changed {
                tracing::info!(rules = access.rules.len(), "access rules changed");
                *before = Arc::new(access);
            }
            changed
        });
    }

    pub(super) fn set_peers(&self, pins: BTreeMap<NodeIndex, IdentityPublicKey>, addresses: &Addresses) {
        let peers = pins.into_iter().map(|(index, pin)| {
            let address = addresses.get(&index).cloned().unwrap_or_default();
            (index.value(), Peer { pin: PinnedKey(pin.0), address })
        });
        let now = Peers(peers.collect());
        let changed = self.peers.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                before.clone_from(&now);
            }
            changed
        });
        if changed {
            tracing::info!(peers = now.0.len(), "pins changed");
            self.take_up(&now);
        }
    }

    fn take_up(&self, peers: &Peers) {
        let peers = peers.0.iter().filter_map(|(index, peer)| Some((NodeIndex::new(*index)?, peer.clone())));
        let peers: Vec<_> = peers.collect();
        self.pins.set(peers.iter().map(|(index, peer)| (*index, IdentityPublicKey(peer.pin.0))).collect());
        self.addresses.send_replace(peers.into_iter().map(|(index, peer)| (index, peer.address)).collect());
    }

    /// Writes every change down, for as long as the process lives.
    pub(crate) async fn remember(self, store: Store, node_key: KeyMaterial) {
        let (mut access, mut peers) = (self.access.subscribe(), self.peers.subscribe());
        loop {
            let (name, row) = tokio::select! {
                Ok(()) = access.changed() => (RULES, serde_json::to_vec(&**access.borrow_and_update())),
                Ok(()) = peers.changed() => (PEERS, serde_json::to_vec(&*peers.borrow_and_update())),
                else => return,
            };
            let Ok(row) = row else { continue };
            if let Err(error) = store.remember_access(name, &row, &node_key).await {
                tracing::warn!(%error, name, "what the API server said is not remembered over a restart");
            }
        }
    }
}
