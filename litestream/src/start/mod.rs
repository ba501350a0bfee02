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
//! | damaged | present | set aside, restore |
//! | damaged | silent or absent | refuse |
//! | anything else | present | set aside, restore |
//! | at or above the floor | silent | keep, read-mostly, when the caller allows it |
//! | at or above the floor | older than the file or the floor, or gone | keep, read-mostly, when the caller allows it |
//! | anything else | silent, or absent below a floor | refuse |

mod reasons;

use crate::position::{CommitNo, DatabaseId, Head, Position, Seq, Term};

pub use reasons::{StaleReason, StartError};

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
    /// True for a file that redb refuses, or whose pages do not check. Its row cannot be relied upon.
    pub is_damaged: bool,
}

impl Local {
    /// Returns the facts about a damaged file, of which the note beside it names the database at most.
    #[must_use]
    pub(crate) fn damaged(database: Option<DatabaseId>) -> Self {
        let meta = database.map(|database| Meta { database, ..Meta::default() });
        Self { meta, acknowledged: None, intent: None, adopts_over: None, is_damaged: true }
    }
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
        (Some(Local { is_damaged: true, .. }), Replica::Absent | Replica::Silent) => {
            Decision::Refuse(StartError::Damaged)
        }
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
    if local.is_damaged {
        return Err(StaleReason::Damaged);
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

/// Returns true when the local file is whole, and at or above the floor where there is one.
#[must_use]
pub fn is_at_floor(local: Local, floor: Option<Position>) -> bool {
    !local.is_damaged && floor.is_none_or(|floor| reaches(local, floor))
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
mod tests;
