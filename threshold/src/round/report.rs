//! What a node says about itself when a peer or the operator begins to follow it.
//!
//! The operator decides nothing before a threshold of receivers has reported: after a restore of etcd the nodes know more
//! than the record does. A report answers a challenge, so that an old one cannot stand in for it.

use super::participant::Participant;
use super::state::Verdict;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use crate::identity::{IdentityPublicKey, Signature};
use crate::purpose::Certificate;

/// A node's account of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub index: NodeIndex,
    /// The challenge that it answers.
    pub challenge: [u8; 32],
    /// The highest number that it ever accepted.
    pub highest: EpochNumber,
    /// Its newest certificate.
    pub newest: Option<Certificate>,
    /// The epochs of which it holds a share, ascending.
    pub held: Vec<EpochNumber>,
    /// Attempts with a verdict: the number, and whether it became active.
    pub verdicts: Vec<(EpochNumber, bool)>,
    /// Digests of the prekey sets on offer, ascending by number.
    pub offers: Vec<Digest>,
}

/// A report as it travels; unchecked until [`SignedReport::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedReport {
    report: Report,
    signature: Signature,
}

impl Participant {
    /// The node's report, answering `challenge`.
    #[must_use]
    pub fn report(&self, challenge: [u8; 32]) -> SignedReport {
        let state = self.state();
        let verdict = |(number, attempt): (&EpochNumber, &super::state::Attempt)| {
            attempt.verdict.map(|verdict| (*number, matches!(verdict, Verdict::Active(_))))
        };
        let held = state.attempts.iter().filter(|(_, attempt)| attempt.holds_share);
        let report = Report {
            cluster: state.cluster,
            index: state.index,
            challenge,
            highest: state.highest,
            newest: state.newest_certified().copied(),
            held: held.map(|(number, _)| *number).collect(),
            verdicts: state.attempts.iter().filter_map(verdict).collect(),
            offers: self.offers().map(crate::prekey::SignedPrekeySet::digest).collect(),
        };
        let signature = self.identity.sign(&report.digest());
        SignedReport { report, signature }
    }
}

impl SignedReport {
    /// The report, if the node's pinned key signed it for this challenge.
    #[must_use]
    pub fn verify(&self, identity: &IdentityPublicKey, challenge: &[u8; 32]) -> Option<&Report> {
        let fresh = self.report.challenge == *challenge;
        (fresh && identity.verifies(&self.report.digest(), &self.signature)).then_some(&self.report)
    }

    /// The canonical bytes: the report, then the signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.report.write(&mut out);
        out.raw(&self.signature.0);
        out.finish()
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// When the bytes are not exactly one report.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, |reader| {
            let report = Report {
                cluster: reader.cluster()?,
                index: reader.index("index")?,
                challenge: reader.array("challenge")?,
                highest: reader.epoch("highest")?,
                newest: reader.option("newest certificate", Certificate::read)?,
                held: reader.list("held", |reader| reader.epoch("held"))?,
                verdicts: reader.list("verdicts", |reader| Ok((reader.epoch("verdict")?, reader.bool("verdict")?)))?,
                offers: reader.list("offers", |reader| reader.digest("offer"))?,
            };
            Ok(Self { report, signature: Signature(reader.array("signature")?) })
        })
    }
}

impl Report {
    fn digest(&self) -> Digest {
        let mut out = Writer::default();
        self.write(&mut out);
        Digest::of("KEYFLEET-V1-REPORT", &[&out.finish()])
    }

    fn write(&self, out: &mut Writer) {
        out.raw(&self.cluster.0).index(self.index).raw(&self.challenge).epoch(self.highest);
        out.option(self.newest.as_ref(), |out, certificate| certificate.write(out));
        out.list(&self.held, |out, number| {
            out.epoch(*number);
        });
        out.list(&self.verdicts, |out, (number, active)| {
            out.epoch(*number).u8((*active).into());
        });
        out.list(&self.offers, |out, offer| {
            out.digest(offer);
        });
    }
}
