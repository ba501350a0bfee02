//! Promises of the local cluster to every other scenario: a Kubernetes that behaves as one in a data centre does, and
//! leaves nothing behind.

mod access;
mod admission;
mod blocks;
mod charts;
mod contents;
mod images;
mod lifecycle;
mod network;
mod storage;
