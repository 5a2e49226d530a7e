//! The operator: turns annotated pods into leases, queues and places them over all nodes, and carries the outcome into the cluster. It may not grant:
//! the agents do. What it sees it keeps reduced (`world.rs`); what it decides, it decides by `memboss-core` on a picture of that (`picture.rs`), as a
//! plan (`plan.rs`), which is carried out (`writes.rs`) by the one process that leads (`election.rs`, `brain.rs`).

pub mod admit;
pub mod annotations;
pub mod assumed;
pub mod brain;
pub mod certs;
pub mod credentials;
pub mod election;
pub mod eligibility;
pub mod heartbeats;
pub mod leases;
pub mod metrics;
pub mod patience;
pub mod picture;
pub mod placeholders;
pub mod plan;
pub mod refusals;
pub mod settings;
pub mod speak;
pub mod start;
pub mod status;
pub mod uninstall;
pub mod watch;
pub mod webhook;
pub mod world;
pub mod writes;
