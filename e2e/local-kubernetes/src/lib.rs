//! A real Kubernetes on one machine, started in seconds and gone without a trace.
//!
//! Every component is the real one; only the *machines* are not: a node is a set of Linux namespaces (network,
//! mounts, processes) with its own kubelet, containerd and kube-proxy, as kind's nodes are, but without an
//! engine to run them in.
//!
//! ```text
//!  the developer's shell        one `unshare` per cluster: its own network, mounts and processes
//!  ─────────────────────        ┌────────────────────────────────────────────────────────────────┐
//!  127.0.0.1:port ── inherited ─┤ inside::cluster (pid 1): forwards, and keeps these running:    │
//!  (API, S3, chain)   sockets   │ etcd  kube-apiserver  controller-manager  scheduler  versitygw │
//!                               │        │ bridge 172.31.0.1/24                                  │
//!                               │   ┌────┴──────────────────────┐  ┌───────────────────────────┐ │
//!                               │   │ inside::node 1 (unshare)  │  │ inside::node 2 (unshare)  │ │
//!                               │   │ containerd kubelet proxy  │  │ containerd kubelet proxy  │ │
//!                               │   └───────────────────────────┘  └───────────────────────────┘ │
//!                               └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything hangs on one process: when the outermost dies, the kernel ends every process in it and takes the
//! bridge, interfaces, mounts and packet filters along. What the kernel leaves (cgroup folders, the state
//! folder) [`cluster::down`] removes, whoever was killed before and wherever they stood.
//!
//! Modules: [`spec`] is the request for a cluster; [`cluster`] brings it up and down; [`inside`] runs in the
//! namespaces; [`layout`] names files and addresses; [`pki`] and [`config`] write the components' configuration;
//! [`traces`] finds the processes and control groups of a cluster on the machine.

pub mod api;
pub mod cgroup;
pub mod cluster;
pub mod config;
pub mod inside;
pub mod layout;
pub mod pki;
pub mod spec;
pub mod traces;
