//! Retirement at the table: four nodes, threshold three, and three epochs, of which the first is to go.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Table, index};
use crate::identifiers::EpochNumber;
use crate::possession::{GOOD_MS, Proofs};
use crate::round::*;

const FIRST: EpochNumber = EpochNumber(1);
/// When the peers are asked.
const ASKED_MS: u64 = 5_000_000;

fn three_epochs() -> Table {
    let mut table = Table::new();
    table.genesis();
    table.reshare(2);
    table.reshare(3);
    table
}

impl Table {
    /// Tells node 4 that epoch 1 is retired, on these proofs.
    fn retires(&mut self, proofs: Proofs, confirm_after_ms: Option<u64>, now_ms: u64) -> Result<Outputs, RetireError> {
        let retirement = Retirement { number: FIRST, proofs, confirm_after_ms };
        let node = self.nodes.get_mut(&index(4)).unwrap();
        node.retire(&retirement, now_ms, &mut ChaCha20Rng::seed_from_u64(1))
    }
}

/// Everybody says that it holds the newest epoch, and the record says that the first is retired. Without proofs that is nothing.
#[test]
fn words_of_holding_retire_nothing() {
    let mut table = three_epochs();
    let heard = table.nodes[&index(4)].transcript(EpochNumber(3)).unwrap().holds().len();
    assert_eq!(heard, 4, "not all have said it, so that nothing is tried");
    let nobody = table.proofs(1, &[], ASKED_MS);
    let refused = table.retires(nobody, Some(0), ASKED_MS).expect_err("it retires on words");
    assert_eq!(refused, RetireError::NewerNotProven(FIRST));
    assert!(table.nodes[&index(4)].share(FIRST).is_some());
}

/// Two of four prove what two liars and the record want: too few, however long ago the newer epochs became active.
#[test]
fn fewer_than_the_threshold_of_provers_make_nobody_retire() {
    let mut table = three_epochs();
    let liar = table.proofs(1, &[1], ASKED_MS);
    let _ = table.nodes.get_mut(&index(4)).unwrap().date(0);
    let refused = table.retires(liar, Some(0), ASKED_MS).expect_err("one other and itself are two of three");
    assert_eq!(refused, RetireError::NewerNotProven(FIRST));
}

/// By count all four are needed here; by age three are, the node itself among them.
#[test]
fn an_epoch_retires_on_enough_proofs_or_after_a_time() {
    let mut table = three_epochs();
    let three = table.proofs(1, &[1, 2], ASKED_MS);
    let not_dated = table.retires(three.clone(), Some(0), ASKED_MS);
    assert!(not_dated.is_err(), "it does not know since when the epochs are active");
    let _ = table.nodes.get_mut(&index(4)).unwrap().date(ASKED_MS - 999);
    let too_early = table.retires(three.clone(), Some(1_000), ASKED_MS);
    assert!(too_early.is_err(), "three of four confirm an epoch by count");
    assert!(table.retires(three.clone(), None, ASKED_MS).is_err(), "the user's time was not read");
    let all = table.proofs(1, &[1, 2, 3], ASKED_MS);
    assert!(table.retires(all, None, ASKED_MS).is_ok(), "all four hold the newer one");
    assert!(table.nodes[&index(4)].share(FIRST).is_none(), "its share lives on");

    let mut table = three_epochs();
    let _ = table.nodes.get_mut(&index(4)).unwrap().date(ASKED_MS - 1_000);
    assert!(table.retires(three, Some(1_000), ASKED_MS).is_ok(), "its time is over, and three hold the newer one");
}

/// A node that has no share of the newer epochs must not destroy its older one on the word of three others.
#[test]
fn a_node_without_a_newer_share_retires_by_count_alone() {
    let mut table = three_epochs();
    let node = table.nodes.get_mut(&index(4)).unwrap();
    let _ = node.date(0);
    for number in [2, 3].map(EpochNumber) {
        node.secrets.shares.remove(&number);
        node.state.attempts.get_mut(&number).unwrap().holds_share = false;
    }
    let others = table.proofs(1, &[1, 2, 3], ASKED_MS);
    assert!(table.retires(others, Some(0), ASKED_MS).is_err(), "it is not one of the three");
}

/// Nodes that answered and were destroyed a moment later prove the same.
#[test]
fn a_proof_is_good_for_sixty_seconds() {
    let mut table = three_epochs();
    let all = table.proofs(1, &[1, 2, 3], ASKED_MS);
    for now_ms in [ASKED_MS + GOOD_MS + 1, ASKED_MS - 1] {
        assert!(table.retires(all.clone(), None, now_ms).is_err(), "it is good at {now_ms}, asked at {ASKED_MS}");
    }
    assert!(table.retires(all, None, ASKED_MS + GOOD_MS).is_ok());
}
