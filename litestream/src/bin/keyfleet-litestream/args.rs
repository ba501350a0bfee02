//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use keyfleet_litestream::Position;
use keyfleet_litestream::position::Seq;

/// Litestream for redb: every commit in S3, provably restorable.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Configuration file.
    #[arg(long, short, global = true, default_value = "/etc/litestream.yml", env = "LITESTREAM_CONFIG")]
    pub(crate) config: PathBuf,
    /// Answer in JSON. A command about several databases answers with a list: for each its `path`, its `location`, and the
    /// answer or an `error`.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replicate the databases that no other process has open.
    ///
    /// redb locks its file, so a program that writes replicates through the library. This command adopts files at
    /// rest: it ships a base of each and stays until it is told to end.
    Replicate {
        /// End once all commits are in the bucket.
        #[arg(long)]
        once: bool,
    },
    /// Restore a database.
    Restore(Restore),
    /// List the snapshots.
    Snapshots {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
    },
    /// List the openings and segments.
    Segments {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
    },
    /// Download all objects and check them.
    Verify {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
    },
    /// Restore to scratch files by two routes and compare them, and the database's own file if it is at rest, row by row.
    Drill {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
    },
    /// Show the newest position of each replica, as the bucket has it.
    Status {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
    },
    /// Delete the objects that no kept restore point needs. Run it under an identity of its own, which may delete.
    Retention {
        /// Path of the database in the configuration; all when left out.
        db: Option<PathBuf>,
        /// Only name the objects that would be deleted.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a recovery key: the identity goes to a file, the recipient to the configuration.
    Keygen {
        /// File for the identity; must not exist.
        #[arg(long, short)]
        output: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Path of the database in the configuration; may be left out when there is one.
    pub(crate) db: Option<PathBuf>,
    /// Write here instead of to the database's path.
    #[arg(long, short)]
    pub(crate) output: Option<PathBuf>,
    /// The last commit at or before this time (RFC 3339).
    #[arg(long, conflicts_with = "seq", env = "LITESTREAM_TIMESTAMP")]
    pub(crate) timestamp: Option<jiff::Timestamp>,
    /// The state after this object of the sequence.
    #[arg(long, value_parser = |text: &str| text.parse().map(Seq))]
    pub(crate) seq: Option<Seq>,
    /// Refuse anything older, however valid: TERM:SEQ:HASH.
    #[arg(long, value_name = "TERM:SEQ:HASH")]
    pub(crate) at_least: Option<Position>,
    /// Accept something older all the same; the reason is recorded beside the file.
    #[arg(long, value_name = "REASON", requires = "at_least")]
    pub(crate) override_floor: Option<String>,
    /// Do nothing where the file exists.
    #[arg(long)]
    pub(crate) if_db_not_exists: bool,
    /// Succeed where there is provably no replica (without it: exit code 3).
    #[arg(long)]
    pub(crate) if_replica_exists: bool,
    /// Move an existing file aside.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Go on from this state although it is older than the newest: the next start of the program on the file makes it the newest,
    /// and ends whoever still writes. Refused where somebody wrote after this restore. The reason is recorded.
    #[arg(long, value_name = "REASON", conflicts_with = "if_db_not_exists")]
    pub(crate) adopt: Option<String>,
    /// Number of objects read at once.
    #[arg(long, default_value_t = 16)]
    pub(crate) parallelism: usize,
}
