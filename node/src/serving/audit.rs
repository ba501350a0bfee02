//! Writes requests down before they are answered: one transaction for all that wait.

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::store::journal::Record;
use crate::store::{Store, StoreError};

/// Requests that may wait for the ledger; beyond it callers are told to come back.
const MAILBOX: usize = 1024;
/// Requests in one transaction.
const BATCH: usize = 256;

/// The way to the ledger. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuditWriter(mpsc::Sender<(Record, oneshot::Sender<bool>)>);

impl AuditWriter {
    /// Starts the task that writes; it ends with the last clone, and then lets go of the store.
    #[must_use]
    pub(crate) fn start(store: Store) -> (Self, JoinHandle<()>) {
        let (sender, mut mailbox) = mpsc::channel(MAILBOX);
        let task = tokio::spawn(async move {
            let mut waiting = Vec::new();
            while mailbox.recv_many(&mut waiting, BATCH).await > 0 {
                let (records, replies): (Vec<Record>, Vec<oneshot::Sender<bool>>) = waiting.drain(..).unzip();
                let written = store.record(records).await;
                if let Err(error) = &written {
                    tracing::error!(%error, "requests could not be written down and are not answered");
                }
                for reply in replies {
                    let _ = reply.send(written.is_ok());
                }
            }
        });
        (Self(sender), task)
    }

    /// Writes one request down; durable when this returns.
    ///
    /// # Errors
    /// When it was not: then nothing may be answered.
    pub(crate) async fn write(&self, record: Record) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.send((record, reply)).await.map_err(|_| StoreError::Stopped)?;
        if answer.await.unwrap_or(false) { Ok(()) } else { Err(StoreError::Stopped) }
    }
}
