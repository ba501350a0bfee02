//! Records that cannot be moved on.

use keyfleet_crds::epoch::Phase;

use super::steady;
use crate::state::{Epoch, Recorded};
use crate::{Action, State, decide};

/// Rounds would wait for ever, and nothing would say why.
#[test]
fn a_record_that_cannot_be_moved_on_is_named_with_what_to_do() {
    let (mut model, _) = steady();
    model.block += model.interval();
    for _ in 0..50 {
        if model.state(0).open().is_some_and(|(_, open)| open.phase() == Some(Phase::Verifying)) {
            break;
        }
        model.step_calmly();
    }
    let state = model.state(0);
    let (number, open) = state.open().expect("a round is under way");
    assert_eq!(open.phase(), Some(Phase::Verifying));
    assert_eq!(decide(&state).waiting, None, "nothing is wrong with it");
    type Change = fn(&mut Epoch);
    let cases: [(&str, Change); 3] = [
        ("not those of phase Verifying", |epoch| epoch.status.as_mut().unwrap().dealers = None),
        ("status.dealers does not ascend", |epoch| {
            epoch.status.as_mut().unwrap().dealers.as_mut().unwrap().reverse();
        }),
        ("planVersion 99", |epoch| epoch.spec.plan_version = 99),
    ];
    for (fault, change) in cases {
        let mut state = state.clone();
        change(state.epochs.get_mut(&number).unwrap());
        // What does not convert has no transcript, and nothing is decided on it.
        state.view.closing.remove(&number);
        let decisions = decide(&state);
        let status = decisions.actions.iter().find_map(|action| match action {
            Action::UpdateCluster { status, .. } => Some(status),
            _ => None,
        });
        let status = status.expect("the status is written");
        let degraded = status.conditions.iter().find(|one| one.type_ == "Degraded").unwrap();
        assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "RoundHalted"), "{fault}");
        for part in [fault, &format!("keys-{number}"), "may also be deleted", "docs/runbooks/rounds.md"] {
            assert!(degraded.message.contains(part), "`{part}` is missing: {}", degraded.message);
        }
        let waiting = decisions.waiting.expect("the operator's log says it, too").to_string();
        assert!(waiting.contains(fault), "{waiting}");
    }
}

/// The epoch that serves is not begun anew where the record of it does not check.
#[test]
fn a_recorded_epoch_that_cannot_be_put_back_is_named() {
    let (_, mut state) = steady();
    let (number, _) = state.active().unwrap();
    state.epochs.get_mut(&number).unwrap().status = None;
    let written = |state: &State| {
        decide(state).actions.into_iter().find_map(|action| match action {
            Action::UpdateEpoch { number: of, status, .. } if of == number => Some(status.phase),
            _ => None,
        })
    };
    assert_eq!(written(&state), Some(Some(Phase::Active)), "it is put back");
    let Recorded::Present { record, .. } = &mut state.record else { panic!("a steady fleet has a record") };
    record.epoch.as_mut().unwrap().dealers.reverse();
    assert_eq!(written(&state), None, "a record that does not check was written, or the epoch begun anew");
    let waiting = decide(&state).waiting.expect("nothing says why").to_string();
    assert!(waiting.contains("status.dealers"), "{waiting}");
}

/// The next step that the message names is one that helps.
#[test]
fn a_halted_round_that_is_deleted_is_begun_anew() {
    let (mut model, before) = steady();
    model.block += model.interval();
    while model.state(0).open().is_none_or(|(_, open)| open.phase() != Some(Phase::Verifying)) {
        model.step_calmly();
    }
    let (number, open) = model.state(0).open().map(|(number, open)| (number, open.clone())).unwrap();
    let mut broken = open;
    broken.status.as_mut().unwrap().dealers = None;
    model.api.now.epochs.insert(number, broken.into());
    for _ in 0..50 {
        model.step_calmly();
    }
    assert_eq!(model.api.now.epochs[&number].phase(), Some(Phase::Verifying), "it was moved on without its dealers");
    let status = &model.api.now.cluster.status;
    assert!(status.conditions.iter().any(|one| one.reason == "RoundHalted"), "{:?}", status.reason);
    model.api.now.epochs.remove(&number);
    model.settle();
    let status = &model.api.now.cluster.status;
    assert!(status.active_epoch > before.cluster.status.active_epoch, "no round followed: {:?}", status.reason);
    assert!(status.conditions.iter().all(|one| one.reason != "RoundHalted"));
}
