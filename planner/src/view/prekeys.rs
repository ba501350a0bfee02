//! Prekeys in reports. After the API server's data went back in time, the nodes alone know which prekeys were named: none of them
//! seals to one that is older than the newest it accepted.

use keyfleet_crds::prekey::Prekey;
use keyfleet_crds::values::{IdentitySignature, PrekeyPoint};

/// Most prekeys that a report may pass on: one for each receiver of the largest plan.
pub const REPORTED_MAX: usize = 100;

/// A prekey that a node says it accepted for a receiver, as it came: neither point nor signature is checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReportedPrekey {
    /// Number of the prekey.
    pub number: u64,
    /// The point's bytes.
    pub public_key: [u8; 48],
    /// The receiver's signature.
    pub signature: [u8; 64],
}

impl ReportedPrekey {
    /// Reads a report's fields; `None` where one has another length.
    #[must_use]
    pub fn of(number: u64, public_key: &[u8], signature: &[u8]) -> Option<Self> {
        Some(Self { number, public_key: public_key.try_into().ok()?, signature: signature.try_into().ok()? })
    }

    /// Returns the prekey as a kind has it, as unchecked as before.
    #[must_use]
    pub fn as_named(&self) -> Prekey {
        let (public_key, signature) = (PrekeyPoint(self.public_key), IdentitySignature(self.signature));
        Prekey { number: self.number, public_key, signature }
    }
}
