//! `status`: what the objects of fleets say, on one screen.
//!
//! - [`mod@report`]: from objects to what a person wants to know; pure
//! - `screen`: that, drawn

pub mod report;
mod screen;

use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments::{Kubernetes, Status};
use crate::cluster::{Cluster, explained};
use crate::exit::{Exit, Failure};
use crate::output::print;
use report::{FleetReport, Objects, report};

/// Screen that `status` prints.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Screen {
    /// The fleets, by namespace and name.
    pub fleets: Vec<FleetReport>,
}

/// Shows fleets.
///
/// # Errors
/// When the API server does not say, or the fleet that was named is not there.
pub async fn run(kubernetes: &Kubernetes, arguments: &Status) -> Result<Exit, Failure> {
    let cluster = Cluster::connect(kubernetes).await?;
    let objects = read(&cluster, arguments).await?;
    let screen = Screen { fleets: report(&objects, jiff::Timestamp::now()) };
    if let Some(name) = &arguments.cluster
        && screen.fleets.is_empty()
    {
        return Err(Failure::other(format!("namespace {} has no KmsCluster {name}", cluster.namespace)));
    }
    print(&mut anstream::stdout(), arguments.output, &screen, |out| screen::draw(out, &screen))?;
    let attention = screen.fleets.iter().any(|fleet| !fleet.attention.is_empty());
    Ok(if arguments.check && attention { Exit::Attention } else { Exit::Done })
}

async fn read(cluster: &Cluster, arguments: &Status) -> Result<Objects, Failure> {
    let (clusters, nodes, epochs) = tokio::try_join!(
        list::<KmsCluster>(cluster, arguments.all_namespaces),
        list::<KmsNode>(cluster, arguments.all_namespaces),
        list::<KeyEpoch>(cluster, arguments.all_namespaces),
    )?;
    let named =
        |fleet: &KmsCluster| arguments.cluster.as_ref().is_none_or(|name| fleet.metadata.name.as_ref() == Some(name));
    Ok(Objects { clusters: clusters.into_iter().filter(named).collect(), nodes, epochs })
}

async fn list<K>(cluster: &Cluster, all: bool) -> Result<Vec<K>, Failure>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = match all {
        true => Api::<K>::all(cluster.client.clone()),
        false => Api::<K>::namespaced(cluster.client.clone(), &cluster.namespace),
    };
    let listed = api.list(&ListParams::default()).await;
    Ok(listed.map_err(|error| Failure::other(format!("{}: {}", K::plural(&()), explained(&error))))?.items)
}

/// Draws the screen, for tests and whoever has the objects already.
///
/// # Errors
/// When it cannot be written.
pub fn draw(out: &mut dyn std::io::Write, screen: &Screen) -> std::io::Result<()> {
    screen::draw(out, screen)
}
