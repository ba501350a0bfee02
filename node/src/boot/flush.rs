//! The last step of a node that ends: commits that the bucket lacks are sent there.

use std::time::Duration;

use keyfleet_litestream::Position;

use crate::store::Backing;

/// Timeout of the bucket when the process ends: together with draining callers and the last write of the status it must stay
/// within the pod's grace period of a minute.
const FLUSH: Duration = Duration::from_secs(25);

/// Sends what is not in the bucket yet, within [`FLUSH`]. Returns true when all of it is there; `None` where nothing is
/// replicated.
pub(super) async fn flush(backing: Backing) -> Option<bool> {
    let behind = backing.lag()?;
    match backing.close(FLUSH).await? {
        Ok(position) => {
            tracing::info!(
                position = shown(position),
                commits = behind.lag_commits,
                "flushed: the bucket has everything"
            );
            Some(true)
        }
        Err(error) => {
            tracing::error!(
                position = shown(behind.position),
                commits = behind.lag_commits,
                %error,
                "not flushed: the bucket did not confirm the newest commits; the volume has them, so keep it"
            );
            Some(false)
        }
    }
}

fn shown(position: Option<Position>) -> String {
    position.map_or_else(|| "the beginning".to_owned(), |position| position.to_string())
}
