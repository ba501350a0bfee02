//! The lease on a real API server.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#[path = "../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use keyfleet_operator::leader::{Candidate, LostLeaseError};
use kube::Api;

const PATIENCE: Duration = Duration::from_secs(60);

/// A holder that gives the lease up hands it on at once, and one that lost it learns who has it and stops.
#[tokio::test]
async fn a_lease_that_is_given_up_is_taken() {
    let client = apiserver::namespace("lease").await;
    let candidate = |me: &str| Candidate::new(client.clone(), "lease", "operator", me.to_owned());
    let (mut one, mut two) = (candidate("one"), candidate("two"));
    tokio::time::timeout(PATIENCE, one.acquire()).await.expect("nobody holds the lease");
    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let holder = async || leases.get("operator").await.expect("the lease").spec.and_then(|spec| spec.holder_identity);
    assert_eq!(holder().await.as_deref(), Some("one"));
    one.release().await;
    tokio::time::timeout(PATIENCE, two.acquire()).await.expect("the lease was given up");
    assert_eq!(holder().await.as_deref(), Some("two"));
    let lost = tokio::time::timeout(PATIENCE, one.hold()).await.expect("a lost lease ends the holder");
    assert!(matches!(&lost, LostLeaseError::Taken(by) if by == "two"), "{lost}");
    assert_eq!(holder().await.as_deref(), Some("two"), "the loser took it back");
}
