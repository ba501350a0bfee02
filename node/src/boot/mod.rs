//! A node's life, from a pod's start to its end.
//!
//! | step | module | what it does |
//! |---|---|---|
//! | 1 | `restore` | the init container: brings the state file back from its replica where the volume is empty |
//! | 2 | [`process`] | serves the pages, tries to start until what is missing has come, wires the parts, ends |
//! | 3 | `assemble` | from a configuration to the parts: files, key stores, key-encryption keys |
//! | 4 | [`recover`] | from the parts to a participant that remembers |
//! | 5 | `flush` | the end of a process: sends the bucket what it lacks |
//! | 6 | `erase` | the end for good: destroys everything secret |

pub(crate) mod assemble;
mod erase;
mod flush;
pub mod process;
pub mod recover;
pub(crate) mod restore;
