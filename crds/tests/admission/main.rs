//! Every rule, tried on a real API server: what it refuses, what it lets through, and that its message helps.
//!
//! Needs the environment variable `KEYFLEET_BIN`; `cargo xtask test --only crds` sets it.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a test drives a real API server")]

#[allow(dead_code, reason = "other files use the rest")]
#[path = "../apiserver/mod.rs"]
mod apiserver;
mod cluster;
mod epoch;
mod node;

use std::fmt::Debug;

use kube::{Client, Resource};
use serde_json::Value;

/// A kind's objects as JSON, so that tests can send what the types could not say.
struct Objects {
    client: Client,
    path: String,
}

impl Objects {
    fn new<K: Resource<DynamicType = ()>>(client: &Client) -> Self {
        let path = K::url_path(&(), Some(client.default_namespace()));
        Self { client: client.clone(), path }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = serde_json::to_vec(body).expect("JSON");
        let answer = self.client.request::<Value>(request.body(body).expect("a request")).await;
        answer.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => panic!("the API server did not answer: {other}"),
        })
    }

    /// Returns the answer to a creation as a dry run.
    async fn try_create(&self, object: &Value) -> Result<Value, String> {
        self.send("POST", &format!("{}?dryRun=All&fieldValidation=Strict", self.path), object).await
    }

    async fn create(&self, object: &Value) -> Value {
        let path = format!("{}?fieldValidation=Strict", self.path);
        self.send("POST", &path, object).await.unwrap_or_else(|error| panic!("a good object was refused: {error}"))
    }

    async fn update(&self, object: &Value) -> Result<Value, String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.send("PUT", &format!("{}/{name}", self.path), object).await
    }

    async fn update_status(&self, object: &Value) -> Result<Value, String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.send("PUT", &format!("{}/{name}/status", self.path), object).await
    }
}

/// The answer must be a refusal that says all of `parts`.
#[track_caller]
fn refused<T: Debug>(what: &str, answer: Result<T, String>, parts: &[&str]) {
    let message = match answer {
        Ok(accepted) => panic!("{what} was accepted: {accepted:?}"),
        Err(message) => message,
    };
    for part in parts {
        assert!(message.contains(part), "{what}: the refusal does not say {part:?}, but:\n{message}");
    }
}

#[track_caller]
fn accepted(what: &str, answer: Result<Value, String>) -> Value {
    answer.unwrap_or_else(|error| panic!("{what} was refused: {error}"))
}

fn hex(byte: u8, bytes: usize) -> String {
    format!("{byte:02x}").repeat(bytes)
}

const ID: &str = "000102030405060708090a0b0c0d0e0f";
