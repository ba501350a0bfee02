//! Decisions, one test for each line of the table and for what lies between them.

use super::*;
use crate::position::Digest;

const OURS: DatabaseId = DatabaseId([3; 16]);

fn at(term: u64, seq: u64) -> Position {
    Position { term: Term(term), seq: Seq(seq), hash: Digest::of(&seq.to_be_bytes()) }
}

fn head(term: u64, seq: u64, commit: u64) -> Head {
    let last_commit = CommitNo(commit);
    Head { database: OURS, position: at(term, seq), is_opening: false, nonce: [9; 16], last_commit, time_ms: 0 }
}

fn local(term: u64, commit: u64, linked: u64) -> Local {
    let meta =
        Meta { database: OURS, term: Term(term), commit: CommitNo(commit), linked: CommitNo(linked), time_ms: 0 };
    Local { meta: Some(meta), acknowledged: None, intent: None, adopts_over: None, is_damaged: false }
}

const ONLINE: Permissions = Permissions { unproven: false, new_replica: false, contradicted: false };
const OFFLINE: Permissions = Permissions { unproven: true, new_replica: false, contradicted: true };

/// A file is kept only when its term is the newest and it includes the head.
#[test]
fn a_file_that_includes_the_head_is_kept() {
    let decide = |l, h| decide(Some(l), Replica::Present(h), None, ONLINE);
    assert_eq!(decide(local(3, 50, 50), head(3, 9, 50)), Decision::Keep);
    assert_eq!(decide(local(3, 70, 70), head(3, 9, 50)), Decision::Keep, "local commits not yet shipped");
    assert!(matches!(decide(local(3, 49, 49), head(3, 9, 50)), Decision::SetAside(StaleReason::Behind { .. })));
    assert!(matches!(decide(local(2, 900, 900), head(3, 9, 50)), Decision::SetAside(StaleReason::OlderTerm { .. })));
    assert!(matches!(decide(local(4, 900, 900), head(3, 9, 50)), Decision::Refuse(StartError::ReplicaOlder { .. })));
}

#[test]
fn commits_without_the_replica_prove_nothing() {
    // A volume rolled back to commit 40 worked on alone to 90; the replica has another 50.
    let decision = decide(Some(local(3, 90, 40)), Replica::Present(head(3, 9, 50)), None, ONLINE);
    assert!(matches!(decision, Decision::SetAside(StaleReason::Behind { .. })), "a fork was kept: {decision:?}");
}

#[test]
fn our_own_opening_whose_answer_was_lost_is_no_strangers() {
    let mut own = local(3, 50, 50);
    let intent = Intent { seq: Seq(10), nonce: [9; 16], after_term: Term(3), after_commit: CommitNo(50) };
    own.intent = Some(intent);
    let opening = Head { is_opening: true, ..head(4, 10, 50) };
    assert_eq!(decide(Some(own), Replica::Present(opening), None, ONLINE), Decision::Keep);
    let strangers = Head { nonce: [8; 16], ..opening };
    let fresh = Local {
        meta: None,
        acknowledged: None,
        intent: Some(Intent { seq: Seq(1), nonce: [9; 16], ..Default::default() }),
        adopts_over: None,
        is_damaged: false,
    };
    let first = Head { is_opening: true, ..head(1, 1, 0) };
    let kept = decide(Some(fresh), Replica::Present(first), None, ONLINE);
    assert_eq!(kept, Decision::Keep, "a file adopted into a new replica was lost to its own opening");
    assert!(matches!(decide(Some(own), Replica::Present(strangers), None, ONLINE), Decision::SetAside(_)));
}

#[test]
fn a_damaged_file_is_set_aside_where_it_can_be_restored() {
    for (noted, is_ours) in [(None, true), (Some(OURS), true), (Some(DatabaseId([4; 16])), false)] {
        let file = Local::damaged(noted);
        let decision = decide(Some(file), Replica::Present(head(3, 9, 50)), None, OFFLINE);
        let is_aside = matches!(decision, Decision::SetAside(StaleReason::Damaged));
        assert_eq!(is_aside, is_ours, "a damaged file whose note names {noted:?}: {decision:?}");
        for replica in [Replica::Absent, Replica::Silent] {
            let decision = decide(Some(file), replica, None, OFFLINE);
            assert!(matches!(decision, Decision::Refuse(_)), "the only copy would go: {decision:?}");
        }
    }
}

/// Terms and commits that agree are no proof.
#[test]
fn a_file_of_another_database_is_refused_whatever_its_counters() {
    let other = Head { database: DatabaseId([4; 16]), ..head(3, 9, 50) };
    for mut file in [local(3, 50, 50), local(1, 1, 1), local(9, 900, 900)] {
        for adopts_over in [None, Some(other.position)] {
            file.adopts_over = adopts_over;
            let decision = decide(Some(file), Replica::Present(other), None, OFFLINE);
            assert!(matches!(decision, Decision::Refuse(StartError::OtherDatabase { .. })), "{decision:?}");
        }
    }
}

/// Whoever went on since is not overruled, and an opening of this volume's own is nobody else's.
#[test]
fn an_older_state_is_adopted_over_the_head_that_was_meant() {
    let mut file = local(2, 20, 20);
    file.adopts_over = Some(at(3, 9));
    let decide = |local, replica| decide(Some(local), replica, None, OFFLINE);
    assert_eq!(decide(file, Replica::Present(head(3, 9, 50))), Decision::Adopt);
    let overtaken = decide(file, Replica::Present(head(3, 10, 51)));
    assert!(matches!(overtaken, Decision::Refuse(StartError::AdoptionOvertaken { .. })), "{overtaken:?}");
    assert!(matches!(decide(file, Replica::Silent), Decision::Refuse(StartError::AdoptionUnproven(_))));
    let opening = Head { is_opening: true, ..head(4, 10, 50) };
    assert!(matches!(decide(file, Replica::Present(opening)), Decision::Refuse(_)), "a stranger's opening");
    file.intent = Some(Intent { seq: Seq(10), nonce: [9; 16], after_term: Term(3), after_commit: CommitNo(50) });
    assert_eq!(decide(file, Replica::Present(opening)), Decision::Adopt, "its own opening overtook it");
}

/// An absent replica is accepted only where no floor and no file says that there was one.
#[test]
fn an_absent_replica_is_accepted_at_the_beginning_only() {
    assert_eq!(decide(None, Replica::Absent, None, ONLINE), Decision::Create);
    let refused = decide(None, Replica::Absent, Some(at(1, 4)), ONLINE);
    assert_eq!(refused, Decision::Refuse(StartError::ReplicaVanished(at(1, 4))));
    let refused = decide(Some(local(2, 5, 5)), Replica::Absent, None, ONLINE);
    assert_eq!(refused, Decision::Refuse(StartError::ReplicaVanishedUnderFile(Term(2))));
    let fresh = Local { meta: None, acknowledged: None, intent: None, adopts_over: None, is_damaged: false };
    assert_eq!(decide(Some(fresh), Replica::Absent, None, ONLINE), Decision::Keep);
}

#[test]
fn no_file_below_the_floor_serves_beside_a_silent_replica() {
    let mut file = local(3, 60, 60);
    file.acknowledged = Some(Acknowledged { position: at(3, 9), commit: CommitNo(50) });
    let decide = |local, floor| decide(local, Replica::Silent, floor, OFFLINE);
    assert_eq!(decide(Some(file), Some(at(3, 9))), Decision::KeepUnproven);
    assert_eq!(decide(Some(file), Some(at(3, 7))), Decision::KeepUnproven);
    assert_eq!(decide(Some(file), None), Decision::KeepUnproven);
    assert_eq!(decide(Some(file), Some(at(3, 11))), Decision::Refuse(StartError::LocalBelowFloor(at(3, 11))));
    let rolled_back = Local { acknowledged: file.acknowledged, ..local(3, 40, 40) };
    assert!(matches!(decide(Some(rolled_back), Some(at(3, 9))), Decision::Refuse(_)), "the note outlived its file");
    assert_eq!(decide(None, Some(at(3, 9))), Decision::Refuse(StartError::NothingLocal));
}

/// A file at or above the floor is kept beside such a replica, where that is allowed.
#[test]
fn a_replica_that_was_rolled_back_is_never_followed() {
    let mut file = local(3, 60, 60);
    file.acknowledged = Some(Acknowledged { position: at(3, 9), commit: CommitNo(50) });
    let older = Replica::Present(head(2, 5, 20));
    for (replica, floor) in [(older, Some(at(3, 9))), (older, None), (Replica::Absent, Some(at(3, 9)))] {
        let refused = decide(Some(file), replica, floor, ONLINE);
        assert!(matches!(refused, Decision::Refuse(_)), "{replica:?} was taken: {refused:?}");
        let kept = decide(Some(file), replica, floor, OFFLINE);
        assert!(matches!(kept, Decision::KeepContradicted(_)), "the newer file was not kept: {kept:?}");
        let below = decide(Some(file), replica, Some(at(3, 11)), OFFLINE);
        assert!(matches!(below, Decision::Refuse(_)), "a file below the floor was kept: {below:?}");
        assert!(matches!(decide(None, Replica::Absent, Some(at(3, 9)), OFFLINE), Decision::Refuse(_)));
    }
}
