//! The node agent: it sees this node's GPUs and pods, owns the node's ledger, admits what the operator proposes, tells holders, and frees only what
//! it has seen free. One task owns the truth (`node/`); everything else talks to it through channels and reads what it publishes.

pub mod attribution;
pub mod cleaner;
pub mod config;
pub mod credentials;
pub mod health;
pub mod heartbeat;
pub mod journal;
pub mod kube;
pub mod metrics;
pub mod neighbours;
pub mod node;
pub mod noted;
pub mod order;
pub mod probes;
pub mod serve;
pub mod settings;
pub mod start;
pub mod store;
