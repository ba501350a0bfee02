//! Report of a node about itself, which begins every stream.

use crate::identifiers::EpochNumber;
use crate::plan::ValidPlan;
use crate::polynomial::VerificationVector;
use crate::purpose::Certificate;
use crate::round::PersistentState;

/// The facts of a report, from the state that was committed last. The node adds who it is, dates it and signs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The highest attempt number that the node has ever seen.
    pub highest: EpochNumber,
    /// The newest epoch whose certificate it verified and whose vector it computed.
    pub newest: Option<ReportedCertificate>,
    /// The certificates of the epochs whose share it holds, newest first.
    pub held: Vec<Certificate>,
}

/// A certificate with all that is needed to check it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportedCertificate {
    /// The plan.
    pub plan: ValidPlan,
    /// The verification vector.
    pub vector: VerificationVector,
    /// The certificate.
    pub certificate: Certificate,
}

impl Report {
    /// Makes the report of a state.
    #[must_use]
    pub fn of(state: &PersistentState) -> Self {
        let attempts = || state.attempts.iter().rev();
        let newest = attempts().find_map(|(_, attempt)| {
            Some(ReportedCertificate {
                plan: attempt.plan.clone(),
                vector: attempt.vector.clone()?,
                certificate: *attempt.certificate()?,
            })
        });
        let held = attempts().filter(|(_, attempt)| attempt.holds_share);
        Self {
            highest: state.highest,
            newest,
            held: held.filter_map(|(_, attempt)| attempt.certificate().copied()).collect(),
        }
    }
}
