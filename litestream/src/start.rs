//! Decision on a local file when a process starts. Pure.
//!
//! | local file | replica | then |
//! |---|---|---|
//! | none | proven absent, no floor | create |
//! | none | present | restore (at or above the floor) |
//! | never replicated | proven absent, no floor | keep, and begin a replica |
//! | its term is the newest and it includes the head | present | keep, and open a new term |
//! | restored on purpose, over the very head | present | adopt: keep the older state, and open a new term |
//! | restored on purpose, over another head | present | refuse |
//! | another database's | present | refuse |
//! | anything else | present | set aside, restore |
//! | at or above the floor | silent | keep, read-mostly, when the caller allows it |
//! | at or above the floor | older than the file or the floor, or gone | keep, read-mostly, when the caller allows it |
//! | anything else | silent, or absent below a floor | refuse |

use crate::position::{CommitNo, DatabaseId, Head, Position, Seq, Term};

/// Facts about the local file, from its own row and from the position file beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Newest row of {term, commit}; `None` in a file that was never written through this library.
    pub meta: Option<Meta>,
    /// Last position that it is known to include, from the position file.
    pub acknowledged: Option<Acknowledged>,
    /// Opening that this volume's last process was about to make, and the head that it was to follow.
    pub intent: Option<Intent>,
    /// Head in whose place a person wants this older state to be the newest.
    pub adopts_over: Option<Position>,
}

/// Row that every transaction writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Database whose history the file belongs to.
    pub database: DatabaseId,
    /// Term whose chain the file belongs to.
    pub term: Term,
    /// Number of the transaction.
    pub commit: CommitNo,
    /// Last transaction that belongs to the term's own line. Later ones were made by a process that could not
    /// reach the replica: they may fork off a longer line, so they prove nothing about the head.
    pub linked: CommitNo,
    /// Time of the transaction, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// Position that the bucket acknowledged, and the commit that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Position that is in the bucket.
    pub position: Position,
    /// Last commit that the position includes.
    pub commit: CommitNo,
}

/// Opening that is about to be made. Saved before it leaves, so that a start after a crash knows its own opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// Number of the opening.
    pub seq: Seq,
    /// Random bytes in its header.
    pub nonce: [u8; 16],
    /// Term of the head that it was to follow.
    pub after_term: Term,
    /// Last commit of that head.
    pub after_commit: CommitNo,
}

/// Answer of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replica {
    /// Proven absence: every place where an object would lie was looked at, and nothing is there.
    Absent,
    /// Replica with this head.
    Present(Head),
    /// No usable answer.
    Silent,
}

/// Decision on the local file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Create a database and a replica.
    Create,
    /// Restore into an empty place.
    Restore,
    /// Go on with the local file, under a new term.
    Keep,
    /// Go on with the local file under a new term, although the replica is newer: a person restored it for that.
    Adopt,
    /// Move the local file aside, then restore.
    SetAside(StaleReason),
    /// Go on with the local file; the replica is asked again before the first remote acknowledgement.
    KeepUnproven,
    /// Go on with the local file, which is newer than the replica; nothing is acknowledged until a person has looked.
    KeepContradicted(StartError),
    /// Do nothing: a person must look.
    Refuse(StartError),
}

/// Reason why a local file is not the newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaleReason {
    /// File that was never part of this replica.
    #[error("the local file was never part of this replica")]
    NotReplicated,
    /// File of another database's history, whatever its counters say.
    #[error("the local file belongs to database {local}, the replica to {replica}")]
    OtherDatabase {
        /// Database of the file.
        local: DatabaseId,
        /// Database of the replica.
        replica: DatabaseId,
    },
    /// File of an older term: another writer opened one since.
    #[error("the local file belongs to term {local}, and another writer opened term {replica} since")]
    OlderTerm {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
    /// File without commits that the replica has.
    #[error("the local file ends with commit {local}, the replica with commit {replica}")]
    Behind {
        /// Last linked commit of the file.
        local: CommitNo,
        /// Last commit of the replica.
        replica: CommitNo,
    },
    /// File of a later term than the replica: the replica was rolled back, or is another one.
    #[error("the local file belongs to term {local}, the replica ends in term {replica}")]
    NewerTerm {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
}

/// Error of a start that is refused: a person must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Missing replica, although a position in it is known to have been acknowledged.
    #[error("there is no replica, but {0} is known to have been acknowledged: look for the right bucket and prefix")]
    ReplicaVanished(Position),
    /// Missing replica of a file that was replicated before.
    #[error(
        "the local file was replicated in term {0}, and there is no replica: look for the right bucket and prefix, \
         or allow a new replica explicitly"
    )]
    ReplicaVanishedUnderFile(Term),
    /// Silent replica and no local file.
    #[error("the replica does not answer, and there is no local file to go on with")]
    NothingLocal,
    /// Silent replica, and no permission to go on without it.
    #[error("the replica does not answer, and opening without it was not asked for")]
    NotAllowed,
    /// Silent replica, and a local file that may be too old.
    #[error("the replica does not answer, and the local file is not known to be at or above the floor {0}")]
    LocalBelowFloor(Position),
    /// Local file of another replica: neither is to take the other's place.
    #[error(
        "the local file is another replica's: it belongs to database {local}, the replica to {replica}; look for the right file, \
         bucket and prefix"
    )]
    OtherDatabase {
        /// Database of the file.
        local: DatabaseId,
        /// Database of the replica.
        replica: DatabaseId,
    },
    /// Older state that a person wants to be the newest, and a replica that went on since that was said.
    #[error(
        "the local file was restored to go on from in the place of {over}, and another writer went on since, to {head}: end \
         that writer, and restore again"
    )]
    AdoptionOvertaken {
        /// End of the replica at the restore.
        over: Position,
        /// End of the replica now.
        head: Position,
    },
    /// Older state that a person wants to be the newest, and a replica that cannot be asked.
    #[error(
        "the local file was restored to go on from in the place of {0}: that needs the replica, which does not answer"
    )]
    AdoptionUnproven(Position),
    /// Older state that a person wants to be the newest, and that is below the floor.
    #[error(
        "the local file was restored to go on from, at {state}, which is below the floor {floor}: override the floor as well, \
         with a reason"
    )]
    AdoptionBelowFloor {
        /// Position of the file.
        state: Position,
        /// Floor.
        floor: Position,
    },
    /// Replica that ends in an earlier term than the local file.
    #[error(
        "the local file belongs to term {local}, the replica ends in term {replica}: the replica was rolled back, or \
         this is another one; set the file aside yourself if the replica is right"
    )]
    ReplicaOlder {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
}

impl StartError {
    /// Returns true when the replica lacks what is known to have been in it.
    fn blames_the_replica(self) -> bool {
        matches!(self, Self::ReplicaVanished(_) | Self::ReplicaVanishedUnderFile(_) | Self::ReplicaOlder { .. })
    }
}

/// Permissions that the caller gives to a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Open on local state when the replica does not answer.
    pub unproven: bool,
    /// Begin a new replica for a file that was replicated before.
    pub new_replica: bool,
    /// Open on local state that is at or above the floor when the replica was rolled back or is gone.
    pub contradicted: bool,
}

/// Decides what becomes of the local file. `local` is `None` when there is no file.
#[must_use]
pub fn decide(local: Option<Local>, replica: Replica, floor: Option<Position>, permissions: Permissions) -> Decision {
    let decision = match (compare(local, replica, floor, permissions), local) {
        (Decision::Refuse(error), Some(local))
            if permissions.contradicted && error.blames_the_replica() && is_at_floor(local, floor) =>
        {
            Decision::KeepContradicted(error)
        }
        (decision, _) => decision,
    };
    invariant_kept_without_proof_is_at_floor(decision, local, floor);
    decision
}

/// No file that the replica does not vouch for is kept below the floor.
fn invariant_kept_without_proof_is_at_floor(decision: Decision, local: Option<Local>, floor: Option<Position>) {
    if let Decision::KeepUnproven | Decision::KeepContradicted(_) = decision {
        assert!(local.is_some_and(|local| is_at_floor(local, floor)), "a file below the floor would be kept");
    }
}

fn compare(local: Option<Local>, replica: Replica, floor: Option<Position>, permissions: Permissions) -> Decision {
    match (local, replica) {
        (None, Replica::Silent) => Decision::Refuse(StartError::NothingLocal),
        (None, Replica::Present(_)) => Decision::Restore,
        (_, Replica::Absent) if floor.is_some() => {
            Decision::Refuse(StartError::ReplicaVanished(floor.expect("just seen")))
        }
        (None, Replica::Absent) => Decision::Create,
        (Some(local), Replica::Absent) => match local.meta {
            Some(meta) if meta.term > Term(0) && !permissions.new_replica => {
                Decision::Refuse(StartError::ReplicaVanishedUnderFile(meta.term))
            }
            _ => Decision::Keep,
        },
        (Some(Local { adopts_over: Some(over), .. }), Replica::Silent) => {
            Decision::Refuse(StartError::AdoptionUnproven(over))
        }
        (Some(_), Replica::Silent) if !permissions.unproven => Decision::Refuse(StartError::NotAllowed),
        (Some(local), Replica::Silent) => match floor {
            Some(floor) if !reaches(local, floor) => Decision::Refuse(StartError::LocalBelowFloor(floor)),
            _ => Decision::KeepUnproven,
        },
        (Some(local @ Local { adopts_over: Some(over), .. }), Replica::Present(head))
            if of_one_database(local, head) =>
        {
            if over == head.position || is_own_opening(local, head, over) {
                Decision::Adopt
            } else {
                Decision::Refuse(StartError::AdoptionOvertaken { over, head: head.position })
            }
        }
        (Some(local), Replica::Present(head)) => match includes(local, head) {
            Ok(()) => Decision::Keep,
            Err(StaleReason::OtherDatabase { local, replica }) => {
                Decision::Refuse(StartError::OtherDatabase { local, replica })
            }
            Err(StaleReason::NewerTerm { local, replica }) => {
                Decision::Refuse(StartError::ReplicaOlder { local, replica })
            }
            Err(why) => Decision::SetAside(why),
        },
    }
}

/// Returns true when the head is this volume's own opening right after `over`: a crash took what was to follow.
fn is_own_opening(local: Local, head: Head, over: Position) -> bool {
    head.position.seq == over.seq.next() && own_opening(local, head).is_some()
}

/// Returns the intent of this volume that became the head.
fn own_opening(local: Local, head: Head) -> Option<Intent> {
    local.intent.filter(|intent| head.is_opening && intent.seq == head.position.seq && intent.nonce == head.nonce)
}

/// Returns true when the file belongs to the replica's database, or to none yet. A replica that this volume has just begun has
/// another name than the file until a base follows.
fn of_one_database(local: Local, head: Head) -> bool {
    let database = local.meta.unwrap_or_default().database;
    database == DatabaseId::NONE || database == head.database || own_opening(local, head).is_some()
}

/// Checks that the local file's term is the replica's newest and that the file includes the head.
///
/// # Errors
/// [`StaleReason`] when one of the two does not hold.
pub fn includes(local: Local, head: Head) -> Result<(), StaleReason> {
    let meta = local.meta.unwrap_or_default();
    // Our own opening, whose answer or whose first commit the crash took: the newest term before it counts.
    let own = own_opening(local, head);
    if !of_one_database(local, head) {
        return Err(StaleReason::OtherDatabase { local: meta.database, replica: head.database });
    }
    let (term, commit) = match own {
        Some(intent) if meta.term < head.position.term => (intent.after_term, intent.after_commit),
        _ => (head.position.term, head.last_commit),
    };
    if meta.term < term && meta.term == Term(0) {
        Err(StaleReason::NotReplicated)
    } else if meta.term < term {
        Err(StaleReason::OlderTerm { local: meta.term, replica: term })
    } else if meta.term > term {
        Err(StaleReason::NewerTerm { local: meta.term, replica: term })
    } else if meta.linked < commit {
        Err(StaleReason::Behind { local: meta.linked, replica: commit })
    } else {
        Ok(())
    }
}

/// Returns true when the local file is at or above the floor, or there is no floor.
#[must_use]
pub fn is_at_floor(local: Local, floor: Option<Position>) -> bool {
    floor.is_none_or(|floor| reaches(local, floor))
}

/// Returns true when the local file is known to include the floor.
fn reaches(local: Local, floor: Position) -> bool {
    let (Some(meta), Some(acknowledged)) = (local.meta, local.acknowledged) else { return false };
    let includes_noted = meta.term > acknowledged.position.term
        || (meta.term == acknowledged.position.term && meta.linked >= acknowledged.commit);
    let above = acknowledged.position.seq > floor.seq && acknowledged.position.term >= floor.term;
    includes_noted && (above || acknowledged.position == floor)
}

#[cfg(test)]
mod tests {
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
        Local { meta: Some(meta), acknowledged: None, intent: None, adopts_over: None }
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
        assert!(matches!(
            decide(local(2, 900, 900), head(3, 9, 50)),
            Decision::SetAside(StaleReason::OlderTerm { .. })
        ));
        assert!(matches!(
            decide(local(4, 900, 900), head(3, 9, 50)),
            Decision::Refuse(StartError::ReplicaOlder { .. })
        ));
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
        };
        let first = Head { is_opening: true, ..head(1, 1, 0) };
        let kept = decide(Some(fresh), Replica::Present(first), None, ONLINE);
        assert_eq!(kept, Decision::Keep, "a file adopted into a new replica was lost to its own opening");
        assert!(matches!(decide(Some(own), Replica::Present(strangers), None, ONLINE), Decision::SetAside(_)));
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
        let fresh = Local { meta: None, acknowledged: None, intent: None, adopts_over: None };
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
}
