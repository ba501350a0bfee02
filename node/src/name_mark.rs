//! The bucket's mark of a cluster's name: which cluster id a name belongs to, `by-name/<namespace>/<name>`.
//!
//! A cluster whose objects were all lost and that is applied anew has a new id; its bucket still holds the old one's
//! replicas. The mark keeps it from making a second key beside the first.

use keyfleet_crds::names::name_claim_object;
use keyfleet_crds::values::ClusterId;
use keyfleet_litestream::bucket::{Bucket, BucketError, Created, Location, RetryPolicy};

/// The mark of one cluster's name.
pub struct NameMark {
    bucket: Bucket,
    object: String,
    id: ClusterId,
}

/// Why a name is not this cluster's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameMarkError {
    #[error(
        "the bucket says in {object} that this name belongs to cluster {found}, not to {expected}: restore that cluster's \
         record, or use another name, prefix or bucket; nothing is generated beside it. docs/runbooks/name-taken.md"
    )]
    Other {
        /// The object.
        object: String,
        found: String,
        expected: ClusterId,
    },
    /// The bucket does not say.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl NameMark {
    /// The mark of `namespace`/`cluster` in a bucket. Nothing is sent yet.
    pub async fn new(location: Location, namespace: &str, cluster: &str, id: ClusterId) -> Self {
        let bucket = Bucket::connect(location, RetryPolicy::default()).await;
        Self { bucket, object: name_claim_object(namespace, cluster), id }
    }

    /// Makes sure that the mark is there and names this cluster.
    ///
    /// # Errors
    /// When it names another, or the bucket does not take it.
    pub async fn ensure(&self) -> Result<(), NameMarkError> {
        let own = self.id.to_string();
        let made = self.bucket.create(&self.object, own.as_bytes()).await;
        if matches!(made, Ok(Created::Yes)) {
            return Ok(());
        }
        // It is there, or the answer was lost: what it says decides.
        let found = match (self.bucket.get(&self.object).await?, made) {
            (Some(found), _) => String::from_utf8_lossy(&found).trim().to_owned(),
            (None, Err(error)) => return Err(error.into()),
            (None, Ok(_)) => String::new(),
        };
        if found == own {
            return Ok(());
        }
        Err(NameMarkError::Other { object: self.object.clone(), found, expected: self.id })
    }
}
