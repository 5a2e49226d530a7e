//! Leases in code over the real socket, against an agent that runs alone: what a process is told, and what becomes of its lease when it, its connection
//! or the agent goes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a part speaks by its output"
)]

mod admin;
mod bed;
mod crowd;
mod hostile;
mod life;
mod limits;
mod part;
mod pressure;
mod processes;
mod shown;
