//! `status`: the state of fleets, on one report.
//!
//! - [`mod@report`]: from objects to a report; pure
//! - `table`: the report, drawn for people

pub mod report;
mod table;

use std::io::{self, Write};

use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode};
use serde::Serialize;

use crate::args::{KubeArgs, StatusArgs};
use crate::exit::{CommandError, Exit};
use crate::kube_client::KubeClient;
use crate::output::print;
use report::{FleetReport, Objects};

/// Report that `status` prints.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The fleets, by namespace and name.
    pub fleets: Vec<FleetReport>,
}

/// Shows fleets.
///
/// # Errors
/// When the objects cannot be listed, or the named fleet does not exist.
pub(crate) async fn run(kube: &KubeArgs, args: &StatusArgs) -> Result<Exit, CommandError> {
    let client = KubeClient::connect(kube).await?;
    let objects = read(&client, args).await?;
    let report = StatusReport { fleets: report::report(&objects, jiff::Timestamp::now()) };
    if let Some(name) = &args.cluster
        && report.fleets.is_empty()
    {
        return Err(CommandError::other(format!(
            "namespace {} has no KmsCluster {name}; look in all with --all-namespaces",
            client.namespace
        )));
    }
    print(&mut anstream::stdout(), args.output, &report, |out| table::draw(out, &report))?;
    let attention = report.fleets.iter().any(|fleet| !fleet.attention.is_empty());
    Ok(if args.check && attention { Exit::Attention } else { Exit::Done })
}

async fn read(client: &KubeClient, args: &StatusArgs) -> Result<Objects, CommandError> {
    let (mut clusters, nodes, epochs) = tokio::try_join!(
        client.list::<KmsCluster>(args.all_namespaces),
        client.list::<KmsNode>(args.all_namespaces),
        client.list::<KeyEpoch>(args.all_namespaces),
    )?;
    if args.cluster.is_some() {
        clusters.retain(|cluster| cluster.metadata.name == args.cluster);
    }
    Ok(Objects { clusters, nodes, epochs })
}

/// Draws a report for people.
///
/// # Errors
/// When it cannot be written.
pub fn draw(out: &mut dyn Write, report: &StatusReport) -> io::Result<()> {
    table::draw(out, report)
}
