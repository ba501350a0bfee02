//! Parts of a cluster, as the command that brings it up asks for them and the first processes inside read them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// Request for a cluster: its name, size and images.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Name and files.
    pub layout: Layout,
    /// Number of nodes, 1 to 9.
    pub nodes: u8,
    /// The image archives that every node imports before its kubelet starts.
    pub images: Vec<PathBuf>,
    /// The development chain's program, if a chain is wanted.
    pub chain: Option<PathBuf>,
}
