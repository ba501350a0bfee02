//! Catching up: the share of a certified epoch from its certificate and its qualified bundles alone.
//!
//! The certificate fixes the vector, so whoever was away needs neither the responses that qualified the dealers nor the vector that
//! they dealt on: if the bundles of a list add up to the certified vector, the list is the right one. Nothing about one epoch
//! waits for another.

use super::bundle::VerifiedBundle;
use super::judgement::{CombineError, Combined, combine};
use crate::curve::SecretScalar;
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::{FrozenDigests, ValidPlan};
use crate::prekey::PrekeySecret;
use crate::purpose::Certificate;

/// The sharing that a certificate certifies, with the bundles that make it. Only a list that adds up makes one, so whatever is
/// found wrong in these bundles is their dealers' fault.
#[derive(Debug)]
pub struct CertifiedSharing<'a> {
    combined: Combined,
    bundles: Vec<&'a VerifiedBundle>,
}

/// Reason why a list of qualified bundles does not make a certified epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatchUpError {
    /// Bundles have to be fetched first. Nobody is at fault.
    #[error("bundles that the list names are not known yet")]
    Missing,
    /// The list names somebody who is no dealer of the plan, or another's bundle.
    #[error("the list names a bundle under {0} that is not its own")]
    ForeignBundle(NodeIndex),
    /// The bundles give no sharing of the key.
    #[error(transparent)]
    NoSharing(#[from] CombineError),
    /// They give another sharing than the certified one.
    #[error("the listed bundles add up to another vector than the certified one")]
    OtherVector,
}

/// Adds the bundles of a `qualified` list up, and compares the sum with the vector of a verified `certificate` over `plan`.
///
/// `bundle` looks a digest up among the bundles that were checked for this plan: author, shape and possession. Whether each deals
/// its dealer's share of the source matters to a round that is judged; here the certified sum has judged.
///
/// # Errors
/// Why the list is not that of the epoch, or what is missing to tell.
pub fn catch_up<'a>(
    plan: &ValidPlan,
    certificate: &Certificate,
    qualified: &FrozenDigests,
    bundle: impl Fn(&Digest) -> Option<&'a VerifiedBundle>,
) -> Result<CertifiedSharing<'a>, CatchUpError> {
    if let Some((stranger, _)) = qualified.iter().find(|(dealer, _)| plan.dealer(*dealer).is_none()) {
        return Err(CatchUpError::ForeignBundle(stranger));
    }
    let bundles = qualified.iter().map(|(_, digest)| bundle(&digest));
    let bundles: Vec<_> = bundles.collect::<Option<_>>().ok_or(CatchUpError::Missing)?;
    let foreign = qualified.iter().zip(&bundles).find(|((dealer, _), bundle)| bundle.dealer() != *dealer);
    if let Some(((dealer, _), _)) = foreign {
        return Err(CatchUpError::ForeignBundle(dealer));
    }
    let combined = combine(plan, &bundles)?;
    if combined.vector.digest() != certificate.vector {
        return Err(CatchUpError::OtherVector);
    }
    Ok(CertifiedSharing { combined, bundles })
}

impl<'a> CertifiedSharing<'a> {
    /// Returns the agreed sharing: the epoch's vector and each dealer's weight.
    #[must_use]
    pub fn combined(&self) -> &Combined {
        &self.combined
    }

    /// Returns the bundles, ascending by dealer.
    #[must_use]
    pub fn bundles(&self) -> &[&'a VerifiedBundle] {
        &self.bundles
    }

    /// Opens and adds up the share of `receiver`.
    ///
    /// # Errors
    /// The dealers whose shares are bad, or no dealer where the receiver itself lacks the secret of its prekey.
    pub fn share(
        &self,
        plan: &ValidPlan,
        receiver: NodeIndex,
        secret: &PrekeySecret,
    ) -> Result<SecretScalar, Vec<NodeIndex>> {
        let shares = VerifiedBundle::open_all(&self.bundles, plan, receiver, secret)?;
        Ok(self.combined.share(receiver, &shares))
    }
}
