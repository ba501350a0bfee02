//! Writes of built objects: server-side apply, and only where something differs.
//!
//! An object is left alone when it carries the digest of what would be applied and still holds all of it. The digest sees
//! what is no longer wanted, the comparison what somebody else changed; together they make an idle fleet cost no writes.

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Annotation: SHA-256 of what was applied.
const APPLIED: &str = "keyfleet.dev/applied";

/// Applies `object` where the live one differs. Returns true when it was written.
///
/// # Errors
/// Refusals of the API server.
pub(super) async fn apply<K>(client: &Client, object: &K) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), object.meta().namespace.as_deref().unwrap_or_default());
    let name = object.name_any();
    let mut wanted = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    let digest: String = Sha256::digest(wanted.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
    wanted["metadata"]["annotations"][APPLIED] = digest.into();
    if let Some(live) = api.get_opt(&name).await? {
        let live = serde_json::to_value(live).map_err(kube::Error::SerdeError)?;
        if holds(&live, &wanted) {
            return Ok(false);
        }
    }
    let parameters = PatchParams::apply(keyfleet_crds::labels::FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&wanted)).await?;
    Ok(true)
}

/// Posts `object` unless one of its name is there. Returns true when it was made. An object that is there is not looked at.
///
/// # Errors
/// Refusals of the API server, but for 409.
pub(super) async fn create<K>(client: &Client, object: &K) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), object.meta().namespace.as_deref().unwrap_or_default());
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns true where `live` has all that `wanted` has. Defaults that the API server adds make no difference.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| live.get(key).is_some_and(|live| holds(live, value)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| holds(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_no_difference_and_every_change_is_one() {
        let wanted = json!({ "spec": { "ports": [{ "port": 1 }], "selector": { "a": "b" } } });
        let live =
            json!({ "spec": { "ports": [{ "port": 1, "protocol": "TCP" }], "selector": { "a": "b" }, "type": "X" } });
        assert!(holds(&live, &wanted));
        for (pointer, value) in [
            ("/spec/selector/a", json!("c")),
            ("/spec/ports", json!([])),
            ("/spec/ports", json!([{ "port": 1 }, { "port": 2 }])),
            ("/spec", json!(null)),
        ] {
            let mut changed = live.clone();
            *changed.pointer_mut(pointer).expect("it is there") = value;
            assert!(!holds(&changed, &wanted), "{pointer} was changed, and nobody would put it back");
        }
    }
}
