//! Certificates of one number over different vectors. One vector per number holds whatever a record says, as long as fewer than
//! 2t − n nodes are corrupt; beyond that, a record that shows different things to different nodes can make two. Whoever hears both
//! has the proof, and erases nothing from then on.

use super::outputs::{Notice, Outputs};
use super::participant::Participant;
use super::state::Attempt;
use crate::purpose::Certificate;

impl Participant {
    /// Hears a certificate, from the record or from a peer, and compares it with the one that this node acted on. A second valid one
    /// is remembered in the state, both as they are; the node keeps to the first.
    pub fn hear_certificate(&mut self, heard: &Certificate) -> Outputs {
        let mut out = Outputs::default();
        let known = self.state.attempts.get(&heard.number).and_then(Attempt::certificate);
        let (Some(known), Some(public_key)) = (known, self.state.public_key) else { return out };
        let is_other = heard.cluster == self.state.cluster && heard.vector != known.vector;
        if is_other && self.state.contradicted.is_none() && heard.verify(&public_key) {
            self.state.contradicted = Some([*known, *heard]);
            out.notices.push(Notice::RecordContradicted(heard.number));
            out.commit = true;
        }
        out
    }
}
