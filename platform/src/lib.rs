//! What every memboss process needs besides its work: logs, an admin server with probes and metrics, and an orderly end.
//! It may hold no domain rule and know no Kubernetes, GPU or lease.

pub mod admin;
pub mod log;
pub mod metrics;
pub mod shutdown;
