//! The operator's ear: `Round.Follow` of every node, with a token of the operator's account, over TLS by pin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfleet_api::tls::Connector;
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_api::{channel, messages, report, v1};
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::wire;
use keyfleet_operator::decide::state::Heard;
use keyfleet_operator::heard::transcripts::Watched;
use keyfleet_operator::heard::{Nodes, Target, Transcripts};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::round::Blob;
use kube::Client;
use tokio::task::JoinHandle;

use crate::fleet::{Ports, token};

pub(crate) struct Listening {
    client: Client,
    namespace: &'static str,
    account: &'static str,
    ports: Arc<Mutex<BTreeMap<u32, Ports>>>,
    heard: Arc<Mutex<Said>>,
    streams: Mutex<BTreeMap<u32, JoinHandle<()>>>,
}

#[derive(Default)]
struct Said {
    transcripts: Transcripts,
    blobs: Vec<(u64, Blob)>,
    /// So many blobs were given to the transcripts of these rounds.
    given: usize,
    rounds: BTreeSet<u64>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        for stream in self.streams.lock().expect("one thread at a time").values() {
            stream.abort();
        }
    }
}

impl Listening {
    pub(crate) fn new(
        client: Client,
        namespace: &'static str,
        account: &'static str,
        ports: Arc<Mutex<BTreeMap<u32, Ports>>>,
    ) -> Self {
        Self { client, namespace, account, ports, heard: Arc::default(), streams: Mutex::default() }
    }
}

#[async_trait::async_trait]
impl Nodes for Listening {
    fn follow(&self, cluster: ClusterId, targets: BTreeMap<u32, Target>) {
        let mut streams = self.streams.lock().expect("one thread at a time");
        for (index, target) in targets {
            let (client, heard, ports) = (self.client.clone(), self.heard.clone(), self.ports.clone());
            let (namespace, account) = (self.namespace, self.account);
            streams.entry(index).or_insert_with(|| {
                tokio::spawn(async move {
                    loop {
                        let token = token(&client, namespace, account, Some(wire::audience(&cluster, index))).await;
                        let port = ports.lock().expect("one thread at a time").get(&index).map(|ports| ports.peers);
                        let Some(port) = port else { continue };
                        if let Err(why) = once(cluster, index, port, &target, &token, &heard).await {
                            eprintln!("the stream of node {index} ended: {why}");
                        }
                        heard.lock().expect("one thread at a time").transcripts.disconnect(index);
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                })
            });
        }
    }

    async fn heard(&self, _: ClusterId, rounds: Vec<Watched>) -> Heard {
        let mut said = self.heard.lock().expect("one thread at a time");
        let Said { transcripts, blobs, given, rounds: known } = &mut *said;
        let numbers: BTreeSet<u64> = rounds.iter().map(|watched| watched.spec.number).collect();
        if *known != numbers {
            // The first look makes the transcripts of new rounds; then they hear everything.
            let _ = transcripts.heard(&rounds);
            (*known, *given) = (numbers, 0);
        }
        for (number, blob) in &blobs[*given..] {
            match blob {
                Blob::Message(message) => transcripts.hear(*number, message),
                Blob::Prekeys(set) => transcripts.learn_prekeys(set),
                Blob::Vector(vector) => transcripts.learn_vector(vector),
            }
        }
        *given = blobs.len();
        transcripts.heard(&rounds)
    }
}

async fn once(
    cluster: ClusterId,
    index: u32,
    port: u16,
    target: &Target,
    token: &str,
    heard: &Mutex<Said>,
) -> Result<(), String> {
    let pin = IdentityPublicKey(target.identity.0);
    let connector = Connector::new(None, pin).map_err(|fault| fault.to_string())?;
    let channel =
        channel::connect(format!("127.0.0.1:{port}"), connector).await.map_err(|error| format!("{error:?}"))?;
    let request = v1::FollowRequest { cluster_id: cluster.0.to_vec(), ..v1::FollowRequest::default() };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    let stream = RoundClient::new(channel).follow(request).await.map_err(|status| status.to_string())?;
    let mut stream = stream.into_inner();
    while let Some(item) = stream.message().await.map_err(|status| status.to_string())? {
        let mut said = heard.lock().expect("one thread at a time");
        match item.item {
            Some(v1::follow_item::Item::Report(signed)) => {
                let report = report::verified(&signed, &pin).ok_or("a report is not signed by its node")?;
                let certified = report.newest_certificate.as_ref().map(|certificate| certificate.number);
                said.transcripts.report(index, report.highest_number, certified);
                let points = report.newest_certificate.map(|newest| newest.verification_vector).unwrap_or_default();
                let points = points.iter().map(|point| G2::decode(point.as_slice().try_into().ok()?).ok());
                let vector = points.collect::<Option<_>>().and_then(|points| VerificationVector::new(points).ok());
                said.blobs.extend(vector.map(|vector| (0, Blob::Vector(vector))));
            }
            Some(v1::follow_item::Item::Row(row)) => {
                let blob = match row.said {
                    Some(v1::outbox_row::Said::Message(message)) => messages::read_message(&message),
                    Some(v1::outbox_row::Said::PrekeySet(set)) => messages::read_prekey_set(&set),
                    None => None,
                };
                said.blobs.extend(blob.map(|blob| (row.number, blob)));
            }
            _ => {}
        }
    }
    Err("closed".to_owned())
}
