//! Health checks (`grpc.health.v1`) and reflection (`grpc.reflection.v1`) beside a service, as gRPC's tools expect them.
//!
//! Both are open to whoever reaches the port: they say whether the service serves, and what stands in the public `.proto`
//! files. `Kms` serves while the node holds the newest active epoch that it has heard of; `Round` once what the node has
//! said is proven durable. The empty name, which asks for the server as a whole, answers for the port's one service.

use std::sync::Arc;

use keyfleet_api::DESCRIPTORS;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::round::{Epochs, Published};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";

/// Decides from what is published and held if a service serves.
pub(crate) type Serves = fn(&Published, &Epochs) -> bool;

/// `Kms` serves while the node holds the newest active epoch that it has heard of.
pub(crate) fn kms_serves(published: &Published, served: &Epochs) -> bool {
    served.are_current(published)
}

/// `Round` serves once something may be read: what the node said is proven durable.
pub(crate) fn round_serves(published: &Published, _: &Epochs) -> bool {
    published.outbox.is_some()
}

/// Keeps the answers to health checks of one port true.
pub(crate) struct Health {
    reporter: HealthReporter,
    service: &'static str,
    serves: Serves,
    published: watch::Receiver<Arc<Published>>,
    served: watch::Receiver<Arc<Epochs>>,
}

impl Health {
    /// Adds both services to the routes of `S`.
    pub(crate) fn beside<S: NamedService>(
        routes: Routes,
        serves: Serves,
        published: watch::Receiver<Arc<Published>>,
        served: watch::Receiver<Arc<Epochs>>,
    ) -> (Routes, Self) {
        let (reporter, health) = health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The descriptors know both ports' services.
            .with_service_name(S::NAME)
            .with_service_name(HEALTH)
            .with_service_name(REFLECTION)
            .build_v1()
            .expect("the descriptors are our own and checked in");
        let routes = routes.add_service(health).add_service(reflection);
        (routes, Self { reporter, service: S::NAME, serves, published, served })
    }

    /// Answers by what is published now.
    pub(crate) async fn look(&mut self) {
        let serves = (self.serves)(&self.published.borrow_and_update(), &self.served.borrow_and_update());
        self.say(if serves { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
    }

    /// Answers by what is published, as it changes, until `stop` says so; then that nothing serves, and ends the streams
    /// that watch, which would hold up the end of the server.
    pub(crate) async fn follow(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            self.look().await;
            tokio::select! {
                Ok(()) = self.published.changed() => {}
                Ok(()) = self.served.changed() => {}
                // A sender that is gone stops as well.
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.say(ServingStatus::NotServing).await;
        for name in ["", self.service] {
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn say(&self, status: ServingStatus) {
        for name in ["", self.service] {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
