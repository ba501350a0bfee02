//! View of a node by gRPC's own tools: health checks and reflection, over the node's real TLS and without any token.

use keyfleet_api::tls::Connector;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ErrorResponse, ServerReflectionRequest};

use super::*;

const KMS: &str = "keyfleet.v1.Kms";
const ROUND: &str = "keyfleet.v1.Round";
const PATIENCE: Duration = Duration::from_secs(60);

/// A channel of somebody who has neither a certificate nor a token: what a probe has.
async fn probe(fleet: &Fleet, address: &str) -> Channel {
    let connector = Connector::new(None, fleet.pins.get(index(1)).unwrap()).unwrap();
    channel::connect(address.to_owned(), connector).await.unwrap()
}

async fn check(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().status())
}

async fn watch_health(channel: &Channel, service: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner()
}

/// Reads until the status comes, or the stream ends.
async fn until(stream: &mut Streaming<HealthCheckResponse>, wanted: Option<ServingStatus>) -> Vec<ServingStatus> {
    let mut seen = Vec::new();
    let reading = async {
        while seen.last().copied() != wanted || wanted.is_none() {
            let Ok(Some(answer)) = stream.message().await else { break };
            seen.push(answer.status());
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("{wanted:?} never came"));
    seen
}

/// seed: 003-47
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_follow_what_the_node_can_do_and_need_no_token() {
    let mut fleet = Fleet::start(3).await;
    let peers = probe(&fleet, &fleet.addresses.borrow()[&index(1)].clone()).await;
    let callers = probe(&fleet, &fleet.callers[&index(1)].clone()).await;
    let mut round = watch_health(&peers, ROUND).await;
    assert_eq!(until(&mut round, Some(ServingStatus::Serving)).await.last(), Some(&ServingStatus::Serving));
    assert_eq!(check(&peers, "").await, Ok(ServingStatus::Serving));
    for service in ["", KMS] {
        let answer = check(&callers, service).await;
        assert_eq!(answer, Ok(ServingStatus::NotServing), "`{service}` serves before there is a key");
    }
    assert_eq!(check(&peers, KMS).await, Err(Code::NotFound), "callers are not served on the port of peers");
    assert_eq!(check(&callers, ROUND).await, Err(Code::NotFound));

    let mut kms = watch_health(&callers, KMS).await;
    let genesis = fleet.round(&mut Operator::default(), None).await;
    fleet.all_serve(&genesis).await;
    let seen = until(&mut kms, Some(ServingStatus::Serving)).await;
    assert_eq!(seen.last(), Some(&ServingStatus::Serving), "a node that holds the active epoch does not say so");
    assert_eq!(check(&callers, "").await, Ok(ServingStatus::Serving));

    // A node that stops says so first, and streams that watch it do not hold it up.
    let stopping = tokio::spawn(fleet.nodes[0].1.take().unwrap().stop());
    let seen = until(&mut kms, None).await;
    assert_eq!(seen.last(), Some(&ServingStatus::NotServing), "who watched was not told that the node stops");
    tokio::time::timeout(PATIENCE, stopping).await.expect("a stream that watches holds the node up").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_describes_exactly_what_the_port_serves() {
    let fleet = Fleet::start(3).await;
    let peers = fleet.addresses.borrow()[&index(1)].clone();
    for (address, service) in [(peers, ROUND), (fleet.callers[&index(1)].clone(), KMS)] {
        let channel = probe(&fleet, &address).await;
        let ask = async |request: MessageRequest| {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let answers = ServerReflectionClient::new(channel.clone())
                .server_reflection_info(futures_util::stream::iter([request]))
                .await;
            let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
            answer.message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
            panic!("another answer than a list");
        };
        let listed: Vec<_> = list.service.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(listed, [service, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);
        for symbol in listed {
            match ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await {
                MessageResponse::FileDescriptorResponse(file) => assert!(!file.file_descriptor_proto.is_empty()),
                MessageResponse::ErrorResponse(ErrorResponse { error_message, .. }) => {
                    panic!("{symbol} is listed and not described: {error_message}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
