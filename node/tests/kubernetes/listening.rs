//! The operator's followers, who find nodes where this process runs them instead of by the cluster's DNS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use keyfleet_crds::values::{ClusterId, PublicKey};
use keyfleet_operator::node_streams::token::OwnAccount;
use keyfleet_operator::node_streams::{Followers, Nodes, Target};
use keyfleet_planner::view::{StreamView, Watched};
use kube::Client;

use crate::fleet::Ports;

pub(crate) struct Listening {
    followers: Followers,
    ports: Arc<Mutex<BTreeMap<u32, Ports>>>,
}

impl Listening {
    /// With tokens of the operator's own account, as in a pod.
    pub(crate) fn new(client: Client, namespace: &str, account: &str, ports: Arc<Mutex<BTreeMap<u32, Ports>>>) -> Self {
        let tokens = OwnAccount::new(client, namespace, account);
        Self { followers: Followers::new(Arc::new(tokens)), ports }
    }
}

#[async_trait::async_trait]
impl Nodes for Listening {
    fn follow(&self, cluster: ClusterId, targets: BTreeMap<u32, Target>) {
        let ports = self.ports.lock().expect("one thread at a time").clone();
        let here = |(index, target): (u32, Target)| {
            let address = format!("127.0.0.1:{}", ports.get(&index)?.peers);
            Some((index, Target { address, ..target }))
        };
        self.followers.follow(cluster, targets.into_iter().filter_map(here).collect());
    }

    fn forget(&self, cluster: ClusterId) {
        self.followers.forget(cluster);
    }

    fn ask(&self, cluster: ClusterId) {
        self.followers.ask(cluster);
    }

    async fn view(&self, cluster: ClusterId, key: Option<PublicKey>, rounds: Vec<Watched>) -> StreamView {
        self.followers.view(cluster, key, rounds).await
    }

    fn notifications(&self) -> BoxStream<'static, ClusterId> {
        self.followers.notifications()
    }
}
