//! The operator's side of a round, without Kubernetes: decides what to write next, given what is known.
//!
//! This is the other half of the protocol, hence in this crate: closing a phase, judging responses and combining a
//! certificate use the same transcript and the same pure functions as the nodes, and the simulator must run exactly the
//! code that the operator runs. Nothing here sees a secret; the operator's crate maps its objects to these plain types and
//! carries out the answers.
//!
//! - [`closing`]: when a phase closes and what is then frozen
//! - [`RoundRecord::apply`](crate::round::RoundRecord::apply): how a decision changes the record
//! - [`planning`]: which source, and whom the round waits for: the next plan
//! - [`retention`]: which epochs are kept, confirmed and retired
//! - [`boundary`]: at which blocks rounds start

mod apply;
pub mod boundary;
pub mod closing;
pub mod planning;
pub mod retention;

pub use apply::ApplyError;
pub use closing::{Decision, FailReason, RoundView, decide};
pub use planning::{FleetView, KeptEpoch, NodeView, PlanningError};
