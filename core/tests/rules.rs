//! The rules, scenario by scenario: where leases go, who waits, who gives way, what comes back. The names say what must hold.
//! What must hold in every order of events is in `properties.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "rules/giving_way.rs"]
mod giving_way;
#[path = "rules/life.rs"]
mod life;
#[path = "rules/placement.rs"]
mod placement;
#[path = "rules/queue.rs"]
mod queue;
#[path = "rules/refusals.rs"]
mod refusals;
mod world;
