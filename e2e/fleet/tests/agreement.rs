//! Names and records that the kinds (`crds`) and the interfaces (`api`) both spell: they are the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use keyfleet_api::wire::{self, FleetRecord, record};
use keyfleet_crds::names;
use keyfleet_crds::record::{CLIENT_FORMAT, CLIENT_KEY, RECORD_KEY, Record};

#[test]
fn host_names_are_made_of_the_objects_names() {
    let of_node = format!("{}.{}.prod.svc", names::node("keys", 3), names::headless_service("keys"));
    assert_eq!(wire::node_host("keys", 3, "prod"), of_node);
    assert_eq!(wire::service_host("keys", "prod"), format!("{}.prod.svc", names::service("keys")));
}

/// The operator writes a record with `crds`, callers read it with `api`.
#[test]
fn callers_read_the_record_that_the_operator_writes() {
    assert_eq!((CLIENT_KEY, CLIENT_FORMAT), (record::FILE, record::FORMAT));
    let fixture = include_str!("../../../crds/fixtures/record-v2.json");
    let whole = Record::from_data(&BTreeMap::from([(RECORD_KEY.to_owned(), fixture.to_owned())])).unwrap();
    let written = whole.to_data()[CLIENT_KEY].clone();
    let read = FleetRecord::parse(&written).unwrap();
    assert_eq!(read.cluster_id.0, whole.cluster_id.0);
    assert_eq!(read.public_key.0, whole.public_key.unwrap().0);
    assert_eq!(read.nodes.len(), whole.nodes.len());
    let mut again = serde_json::to_value(&read).unwrap();
    again["format"] = record::FORMAT.into();
    assert_eq!(again, serde_json::from_str::<serde_json::Value>(&written).unwrap());
}
