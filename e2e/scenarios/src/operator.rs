//! The operator, installed once for all scenarios.

/// Where it is.
pub const NAMESPACE: &str = "keyfleet-system";
/// Its Deployment.
pub const DEPLOYMENT: &str = "keyfleet-operator";
