//! What the cluster tests and the benchmarks have in common: the way to the test bed, pods of ours, and waiting for what is expected.
//! It may hold no expectation of its own: those stand in the tests.

pub mod bed;
pub mod leases;
pub mod pods;
pub mod wait;
