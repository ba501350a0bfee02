//! Complaints: what a receiver discloses about a bundle whose share is bad.

use crate::curve::G1;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::MEMBERS_MAX;

/// A complaint discloses the one value that receiver and dealer share, so that anyone opens the share and judges. It is about
/// one bundle that its own dealer signed, whatever was frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// The accused.
    pub dealer: NodeIndex,
    /// Digest of the accused's bundle.
    pub bundle: Digest,
    /// K = x·E1 of that bundle.
    pub key: G1,
}

impl Complaint {
    pub(super) fn write(&self, out: &mut Writer) {
        out.index(self.dealer).digest(&self.bundle).raw(&self.key.encode());
    }

    /// Reads complaints, which ascend by dealer: one about each at most.
    pub(super) fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let complaints = reader.short_list("complaints", MEMBERS_MAX, |reader| {
            let (dealer, bundle) = (reader.index("accused dealer")?, reader.digest("accused bundle")?);
            Ok(Self { dealer, bundle, key: reader.g1("disclosed value")? })
        })?;
        if complaints.is_sorted_by(|a, b| a.dealer < b.dealer) {
            Ok(complaints)
        } else {
            Err(DecodeError::Invalid { field: "complaints" })
        }
    }
}
