//! `Kms`, for callers.

use std::sync::Arc;

use async_trait::async_trait;
use keyfleet_api::limits::{IDENTITY_BYTES_MAX, KEY_NAME_BYTES_MAX, SIGNED_MESSAGE_BYTES_MAX};
use keyfleet_api::v1;
use keyfleet_api::v1::kms_server::Kms;
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::EpochNumber;
use tonic::{Request, Response, Status};

use crate::clock::now_seconds;
use crate::round::ServedEpoch;
use crate::serving::{Answer, Asked, RequestError, Service};

/// The service.
pub struct KmsApi(pub Arc<Service>);

/// The bearer token of a request.
pub(super) fn bearer<T>(request: &Request<T>) -> Option<&str> {
    request.metadata().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

impl KmsApi {
    fn check_cluster(&self, cluster: &[u8]) -> Result<(), Status> {
        let (ours, _) = self.0.owner();
        if cluster == ours.0 { Ok(()) } else { Err(Status::failed_precondition(format!("this is cluster {ours}"))) }
    }

    async fn answer<T>(&self, request: &Request<T>, id: &[u8], asked: Asked, epoch: u64) -> Result<Answer, Status> {
        let id: Option<&[u8; 16]> = match id.len() {
            0 => None,
            _ => Some(id.try_into().map_err(|_| Status::invalid_argument("request_id: 16 bytes"))?),
        };
        let epoch = (epoch != 0).then_some(EpochNumber(epoch));
        self.0.answer(bearer(request), id, &asked, epoch, now_seconds()).await.map_err(status)
    }
}

fn status(denied: RequestError) -> Status {
    let what = denied.to_string();
    match denied {
        RequestError::Token(_) => Status::unauthenticated(what),
        RequestError::NotAllowed { .. } => Status::permission_denied(what),
        RequestError::NoEpoch => Status::unavailable(what),
        RequestError::OtherEpoch(_) => Status::failed_precondition(what),
        RequestError::IdReused => Status::aborted(what),
        RequestError::Store(error) => {
            tracing::error!(%error, "a request could not be written down");
            Status::unavailable("this node cannot write the request down; ask another")
        }
    }
}

fn limited(field: &str, length: usize, least: usize, most: usize) -> Result<(), Status> {
    if (least..=most).contains(&length) {
        Ok(())
    } else {
        Err(Status::invalid_argument(format!("{field}: {length} bytes; {least} to {most} are allowed")))
    }
}

#[async_trait]
impl Kms for KmsApi {
    async fn public_key(
        &self,
        request: Request<v1::PublicKeyRequest>,
    ) -> Result<Response<v1::PublicKeyResponse>, Status> {
        let cluster = &request.get_ref().cluster_id;
        if !cluster.is_empty() {
            self.check_cluster(cluster)?;
        }
        let epochs = self.0.epochs();
        let mut proofs = epochs.iter().map(|(number, epoch)| proof(number, epoch));
        let active = proofs.next().ok_or_else(|| Status::unavailable("this node holds no active epoch"))?;
        let (cluster, node) = self.0.owner();
        Ok(Response::new(v1::PublicKeyResponse {
            cluster_id: cluster.0.to_vec(),
            public_key: active.verification_vector.first().cloned().unwrap_or_default(),
            node_index: node.value(),
            active: Some(active),
            previous: proofs.next(),
        }))
    }

    async fn derive(&self, request: Request<v1::DeriveRequest>) -> Result<Response<v1::DeriveResponse>, Status> {
        let asked = request.get_ref();
        self.check_cluster(&asked.cluster_id)?;
        limited("identity", asked.identity.len(), 1, IDENTITY_BYTES_MAX)?;
        let transport = <[u8; 48]>::try_from(asked.transport_key.as_slice()).ok();
        let transport = transport.and_then(|bytes| G1::decode(&bytes).ok()).filter(|point| !point.is_infinity());
        let transport =
            transport.ok_or_else(|| Status::invalid_argument("transport_key: a point of G1 in 48 bytes"))?;
        let what = Asked::Derive { identity: asked.identity.clone(), transport };
        let answer = self.answer(&request, &asked.request_id, what, asked.epoch).await?;
        Ok(Response::new(v1::DeriveResponse {
            node_index: self.0.owner().1.value(),
            epoch: answer.epoch.0,
            encrypted_partial: answer.partial,
        }))
    }

    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let asked = request.get_ref();
        self.check_cluster(&asked.cluster_id)?;
        let what = match &asked.purpose {
            Some(v1::sign_request::Purpose::Message(named)) => {
                limited("key_name", named.key_name.len(), 1, KEY_NAME_BYTES_MAX)?;
                limited("message", named.message.len(), 0, SIGNED_MESSAGE_BYTES_MAX)?;
                Asked::Sign { key_name: named.key_name.clone(), message: named.message.clone() }
            }
            Some(v1::sign_request::Purpose::BeaconRound(round)) => Asked::Beacon(*round),
            None => return Err(Status::invalid_argument("purpose: name a message or a beacon round")),
        };
        let answer = self.answer(&request, &asked.request_id, what, asked.epoch).await?;
        Ok(Response::new(v1::SignResponse {
            node_index: self.0.owner().1.value(),
            epoch: answer.epoch.0,
            partial_signature: answer.partial,
        }))
    }
}

fn proof(number: EpochNumber, epoch: &ServedEpoch) -> v1::EpochProof {
    v1::EpochProof {
        number: number.0,
        plan_digest: epoch.certificate.plan.0.to_vec(),
        verification_vector: epoch.vector.commitments().iter().map(|point| point.encode().to_vec()).collect(),
        certificate: epoch.certificate.signature.encode().to_vec(),
        receivers: epoch.receivers.iter().map(|index| index.value()).collect(),
    }
}
