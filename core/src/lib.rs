//! The rules of memboss: who gets which memory, who waits, who gives way, and why. Pure: no I/O, no clock, no randomness; time comes in as an
//! argument, and the same calls give the same answers. The agent runs an [`Engine`] on its node's ledger, the operator on a picture of all nodes.
//!
//! Words: a *pool* is one GPU's memory or one node's RAM. A *lease* holds amounts of pools of one node, one *slot* for each GPU. *Charged* is what
//! leases hold until it is seen free; *foreign* is what is in use that no lease explains; a *claim* is memory set aside for a preemptor while its
//! *victims* leave; the *first in line* at a GPU is the waiter that nobody behind it may delay.
//!
//! Where to find which rule:
//! - why a lease is granted, queued, or preempts: `decide.rs`
//! - where it fits: `place.rs`; who gives way: `victims.rs`, and for how long: `claims.rs`; who is next: `order.rs`, and stands first: `first.rs`
//! - what may happen to a lease: `state.rs` (picture) and `life.rs` (steps); every refusal and reason to wait: `refuse.rs`, and which of them
//!   holds: `waiting.rs`
//! - when it will probably be granted: `estimate.rs`
//! - the numbers: `policy.rs`
//! - how hard pressed RAM is: `pressure.rs`; what is done about it: `relief.rs`, and how long that rests: `rests.rs`

mod check;
mod claims;
mod class;
mod decide;
mod engine;
mod estimate;
mod explain;
mod first;
mod ids;
mod ledger;
mod life;
mod order;
mod place;
mod policy;
mod pool;
mod pressure;
mod refuse;
mod relief;
mod request;
mod rests;
mod state;
mod units;
mod victims;
mod waiting;

pub use class::{Class, UnknownClass};
pub use decide::Decision;
pub use engine::{Admission, Engine, LeaseRecord};
pub use estimate::{Basis, Estimate};
pub use explain::{Forecast, GpuView, LeaseView};
pub use ids::{BadName, GpuModel, GpuUuid, LeaseId, NodeName};
pub use ledger::{GpuFacts, NodeFacts};
pub use life::DrainScope;
pub use order::OrderKey;
pub use policy::Policy;
pub use pressure::{Cause, Gauge, Pressure, Sign, Signals, Threshold, Thresholds};
pub use refuse::{Closed, Refused, Waiting};
pub use relief::{Cleaning, LastCleaning, RamHolder, Situation, Stay, Step};
pub use request::{Demand, Flexibility, GpuSelector, GpuShare, Layout, NodeSelector, Placement, Request, Slot};
pub use rests::Rests;
pub use state::{EndReason, Notice, Phase, Token};
pub use units::{Mib, Moment, NotAShare, Percent, Span, UNIT};
