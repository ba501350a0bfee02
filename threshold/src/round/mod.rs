//! One round: n nodes make a key, or hand a key on to new shares, and end it on the same sharing or not at all.
//!
//! | Phase | Nodes say | The record then fixes |
//! |---|---|---|
//! | Dealing | dealers: a [`Dealing`](dealing) of their secret | |
//! | Freezing | receivers: `Have` for each bundle that looks valid | `dealers`: those with n−t+1 `Have`s |
//! | Verifying | receivers: a [`Response`], with complaints about bad shares | `responses`, and `qualified` as follows from them |
//! | Preparing | receivers: `Prepared`, once the share is durable | |
//! | Certifying | receivers: a partial signature with the new share | the certificate: active |
//! | Active | receivers: `Holds`; after retirement `Erased` | |
//!
//! `docs/protocol.md` specifies it for a second implementation; `docs/protocol-checks.md` lists every check, with the function here
//! that makes it.
//!
//! Messages travel on channels that need no secrecy (shares are sealed to prekeys) and need not be reliable (everything is
//! content-addressed and said again on request). The mathematics is joint Feldman sharing for genesis and Desmedt–Jajodia
//! redistribution for reshares; with BLS the known bias of the public key does no harm (Gurkan et al. 2021/005 §5).
//!
//! Start with [`Participant`], a node's side. [`Transcript`] is what anyone knows of a round, [`judgement`] the pure
//! function from frozen fields to qualified dealers, [`catch_up()`] that from a certificate and bundles to a share, [`audit`] checks a finished round from outside, [`PersistentState`] is
//! what must survive. The operator's side is [`crate::coordination`].
//!
//! Invariants, checked by the simulation after every event: one vector per number; one dealer set per number; the public
//! key never changes; no number is both active and failed for anyone; any t shares of an active epoch sign.

pub mod audit;
mod bundle;
mod catch_up;
mod complaint;
mod contradiction;
mod culprit;
pub mod dealing;
mod early;
mod erasure;
mod failed;
mod judged;
pub mod judgement;
mod kept;
mod kept_list;
mod learning;
mod message;
mod outputs;
mod pad;
mod participant;
mod prekeys;
mod proposals;
mod record;
mod retirement;
mod shown;
mod state;
mod steps;
#[cfg(test)]
pub(crate) mod tests;
mod transcript;

pub use bundle::{OpenError, VerifiedBundle};
pub use catch_up::{CatchUpError, CertifiedSharing, catch_up};
pub use complaint::Complaint;
pub use culprit::{Culprit, Offence};
pub use dealing::{DealerSeed, Dealing, DealingError, Ephemeral, FaultyDealing};
pub use failed::FailedNumbers;
pub use judgement::{CombineError, Combined, JudgeError, Judgement};
pub use message::{Body, MalformedBody, MessageKind, Response, SignedMessage, VerifiedMessage};
pub use outputs::{Blob, Contradiction, Notice, Outputs, Refusal, RestoreError, RetireError, Want};
pub use participant::Participant;
pub use record::{Phase, RoundRecord};
pub use retirement::Retirement;
pub use shown::{ShownEpoch, ShownError};
pub use state::{Attempt, PersistentState, SecretName, Verdict};
pub use transcript::{MessageError, Transcript};
