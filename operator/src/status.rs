//! What a lease's status should say, in the operator's part of it: the one word, the reason, place in the queue, conditions, times. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use memboss_core::{Closed, EndReason, LeaseView, Waiting};
use memboss_crds::{Allocation, AllocationState, LeasePhase, QueueStatus, VramLease, VramLeaseStatus};

use crate::picture::{Standing, answer};

/// The reason's name of a reservation that nobody came for in time.
pub const TIMED_OUT: &str = "ReservationTimedOut";

/// What is known beyond the object itself.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// How it stands.
    pub standing: Standing,
    /// How the picture's engine sees it, if it is in the queue.
    pub view: Option<LeaseView>,
    /// Its place, if it is among those that are told.
    pub position: Option<u32>,
    /// Where its pod could run, in a sentence, if nowhere.
    pub nowhere: Option<String>,
    /// What of RAM it asks that no node has in all, if so.
    pub beyond_ram: Option<Waiting>,
    /// Scheduling gates of others that hold its pod back.
    pub other_gates: Vec<String>,
    /// What about the object could not be read.
    pub unreadable: Option<String>,
    /// Its pod is gone or over.
    pub pod_is_over: bool,
    /// Its node is gone from the cluster.
    pub node_is_gone: bool,
    /// An administrator said to end it whatever holds its memory.
    pub forced: bool,
}

/// The state in one word, a reason's name, and a sentence.
struct Word {
    phase: LeasePhase,
    why: String,
    message: String,
}

impl Word {
    fn new(phase: LeasePhase, why: &str, message: impl Into<String>) -> Self {
        Self { phase, why: why.to_owned(), message: message.into() }
    }
}

/// The status as it should be; fields of others are left as they are.
#[must_use]
pub fn desired(lease: &VramLease, context: &Context, now: Timestamp) -> VramLeaseStatus {
    let old = lease.status.clone().unwrap_or_default();
    if old.phase == Some(LeasePhase::Ended) {
        return old;
    }
    let word = word(lease, context);
    let ended = word.phase == LeasePhase::Ended;
    let holds =
        matches!(word.phase, LeasePhase::Reserved | LeasePhase::Active | LeasePhase::Revoking | LeasePhase::Stopping);
    let first = |old: &Option<Time>, reached: bool| if reached { old.clone().or(Some(Time(now))) } else { old.clone() };
    let waits = matches!(word.phase, LeasePhase::Waiting | LeasePhase::Unsatisfiable);
    let queue = waits.then(|| QueueStatus {
        position: context.position,
        reason: Some(word.why.clone()),
        message: Some(word.message.clone()),
    });
    VramLeaseStatus {
        phase: Some(word.phase),
        reserved_at: first(&old.reserved_at, holds),
        active_at: first(&old.active_at, matches!(word.phase, LeasePhase::Active | LeasePhase::Revoking)),
        ended_at: first(&old.ended_at, ended),
        end_reason: if ended { Some(word.why.clone()) } else { None },
        queue,
        observed_generation: lease.metadata.generation,
        conditions: conditions(&old.conditions, &word, context, holds, now)
            .map(|condition| Condition { observed_generation: lease.metadata.generation, ..condition })
            .collect(),
        why: Some(word.why),
        message: Some(word.message),
        ..old
    }
}

fn word(lease: &VramLease, context: &Context) -> Word {
    if context.forced {
        return Word::new(
            LeasePhase::Ended,
            EndReason::Deleted.name(),
            "ended by an administrator, whatever holds its memory",
        );
    }
    match context.standing {
        Standing::Over | Standing::Held | Standing::Asked if context.node_is_gone => {
            Word::new(LeasePhase::Ended, EndReason::NodeLost.name(), "its node is gone from the cluster")
        }
        Standing::Over => over(lease),
        Standing::Held => held(lease),
        Standing::Queued if context.pod_is_over => {
            Word::new(LeasePhase::Ended, EndReason::Deleted.name(), "its pod is gone; it never held memory")
        }
        Standing::Queued if lease.metadata.deletion_timestamp.is_some() => {
            Word::new(LeasePhase::Ended, EndReason::Deleted.name(), "it was deleted; it never held memory")
        }
        Standing::Asked => Word::new(
            LeasePhase::Waiting,
            "Placed",
            format!("placed on {}; its agent has not answered yet", node(lease)),
        ),
        Standing::Queued => queued(lease, context),
    }
}

fn node(lease: &VramLease) -> &str {
    lease.status.as_ref().and_then(|s| s.placement.as_ref()).map_or("a node", |placed| placed.node.as_str())
}

fn over(lease: &VramLease) -> Word {
    let allocation = lease.status.as_ref().and_then(|status| status.allocation.as_ref());
    let reason = allocation.and_then(|a| a.reason.clone()).unwrap_or_else(|| EndReason::Exited.name().to_owned());
    Word::new(LeasePhase::Ended, &reason, "its memory was seen free")
}

fn held(lease: &VramLease) -> Word {
    let Some(allocation) = answer(lease) else { return Word::new(LeasePhase::Waiting, "Placed", "placed") };
    let said = allocation.message.clone().unwrap_or_default();
    let reason = allocation.reason.clone().unwrap_or_default();
    let place = place(lease, allocation);
    match allocation.state {
        AllocationState::Claimed => {
            let sentence = if said.is_empty() { format!("{place} is being freed for it") } else { said };
            Word::new(LeasePhase::Waiting, "Claimed", sentence)
        }
        AllocationState::Waiting => Word::new(
            LeasePhase::Waiting,
            TIMED_OUT,
            format!("nobody came for its reservation in time; it waits again, bound to {}", node(lease)),
        ),
        AllocationState::Reserved => Word::new(LeasePhase::Reserved, "Reserved", format!("{place} is reserved")),
        AllocationState::Active if allocation.over_lease => {
            let sentence = if said.is_empty() { "it uses more than it leased".to_owned() } else { said };
            Word::new(LeasePhase::Active, EndReason::OverLease.name(), sentence)
        }
        AllocationState::Active => Word::new(LeasePhase::Active, "Active", place),
        AllocationState::Revoking => {
            let notice = allocation.notice.clone().unwrap_or_default();
            let whom = notice.preemptor.map(|p| format!(" for {p}")).unwrap_or_default();
            let ram = notice.needed_ram.map(|ram| format!("{ram} of RAM"));
            let of_gpus = notice.needed.iter().filter(|amount| *amount != "0Mi").cloned();
            let needed = of_gpus.chain(ram).collect::<Vec<_>>().join(" + ");
            let because = if said.is_empty() { said } else { format!(": {said}") };
            let sentence = format!("asked to free {needed}{whom} within {} s{because}", notice.deadline_seconds);
            Word::new(LeasePhase::Revoking, &notice.reason, sentence)
        }
        AllocationState::Stopping => Word::new(
            LeasePhase::Stopping,
            &reason,
            if said.is_empty() { "its holder is being ended".to_owned() } else { said },
        ),
        AllocationState::Refused | AllocationState::Ended => Word::new(LeasePhase::Waiting, &reason, said),
    }
}

/// What it holds or is to hold, and where.
fn place(lease: &VramLease, allocation: &Allocation) -> String {
    let gpus = (!lease.spec.slots.is_empty())
        .then(|| format!("{} of {}", lease.spec.requested, allocation.display.as_deref().unwrap_or("its GPU")));
    let ram = lease.spec.ram.as_ref().map(|ram| format!("{ram} of RAM"));
    let all: Vec<_> = gpus.into_iter().chain(ram).collect();
    format!("{} on {}", all.join(" and "), node(lease))
}

fn waits_for(context: &Context) -> Option<&Waiting> {
    context.view.as_ref().and_then(|view| view.why.as_ref())
}

fn queued(lease: &VramLease, context: &Context) -> Word {
    if let Some(why) = &context.unreadable {
        return Word::new(LeasePhase::Unsatisfiable, "Unreadable", why.clone());
    }
    if !context.other_gates.is_empty() {
        let gates = context.other_gates.join(", ");
        let sentence =
            format!("gets its memory once whoever set them has opened its pod's other scheduling gates: {gates}");
        return Word::new(LeasePhase::Waiting, "OtherGates", sentence);
    }
    if let Some(sentence) = &context.nowhere {
        return Word::new(LeasePhase::Waiting, "NoEligibleNode", sentence.clone());
    }
    if let Some(why) = &context.beyond_ram {
        return Word::new(LeasePhase::Unsatisfiable, why.name(), why.to_string());
    }
    match waits_for(context) {
        None | Some(Waiting::New) => {
            let refused = answer(lease).filter(|a| a.state == AllocationState::Refused);
            match refused {
                Some(allocation) => Word::new(
                    LeasePhase::Waiting,
                    allocation.reason.as_deref().unwrap_or("Refused"),
                    format!(
                        "{} refused it and it is placed again: {}",
                        node(lease),
                        allocation.message.as_deref().unwrap_or_default()
                    ),
                ),
                None => Word::new(LeasePhase::Waiting, "Queued", "waits behind others that ask for the same"),
            }
        }
        Some(why) if why.is_unsatisfiable() => Word::new(LeasePhase::Unsatisfiable, why.name(), why.to_string()),
        Some(why) => Word::new(LeasePhase::Waiting, why.name(), why.to_string()),
    }
}

fn conditions(
    old: &[Condition],
    word: &Word,
    context: &Context,
    holds: bool,
    now: Timestamp,
) -> impl Iterator<Item = Condition> {
    let could = match waits_for(context) {
        Some(Waiting::NoRam { .. }) => "how much RAM can be leased changes",
        Some(Waiting::Closed { why: Closed::Unread, .. }) => "the driver of a node has not told of its GPUs yet",
        _ => "the cluster has memory that could hold it",
    };
    let said = (word.why.as_str(), word.message.as_str());
    let unsatisfiable = word.phase == LeasePhase::Unsatisfiable;
    let satisfiable = if unsatisfiable { said } else { ("Satisfiable", could) };
    [("Granted", holds, said), ("Unsatisfiable", unsatisfiable, satisfiable)].into_iter().map(
        move |(kind, holds, (reason, message))| {
            let status = if holds { "True" } else { "False" };
            let before = old.iter().find(|condition| condition.type_ == kind);
            let since = before
                .filter(|condition| condition.status == status)
                .map_or(Time(now), |condition| condition.last_transition_time.clone());
            Condition {
                type_: kind.into(),
                status: status.into(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: since,
                observed_generation: None,
            }
        },
    )
}

/// Whether two statuses say the same in the operator's part. Times of conditions aside: they follow from the rest.
#[must_use]
pub fn says_the_same(a: &VramLeaseStatus, b: &VramLeaseStatus) -> bool {
    a.phase == b.phase
        && a.why == b.why
        && a.message == b.message
        && a.queue == b.queue
        && a.end_reason == b.end_reason
        && a.observed_generation == b.observed_generation
}

/// Whether they differ in numbers only: the place in the queue, and what the same reason says of the present moment.
#[must_use]
pub fn differs_in_numbers_only(a: &VramLeaseStatus, b: &VramLeaseStatus) -> bool {
    let waits = |s: &VramLeaseStatus| matches!(s.phase, Some(LeasePhase::Waiting | LeasePhase::Unsatisfiable));
    waits(a) && a.phase == b.phase && a.why == b.why && a.observed_generation == b.observed_generation
}

/// Since when a lease has waited for a reservation again that nobody came for in time.
#[must_use]
pub fn timed_out_since(status: &VramLeaseStatus) -> Option<Timestamp> {
    let granted = status.conditions.iter().find(|condition| condition.type_ == "Granted")?;
    (status.why.as_deref() == Some(TIMED_OUT)).then_some(granted.last_transition_time.0)
}

/// The class and the seconds that it waited, if `said` is the first to say that a lease has its memory.
#[must_use]
pub fn first_wait(lease: &VramLease, said: &VramLeaseStatus) -> Option<(memboss_crds::Class, f64)> {
    let before = lease.status.as_ref().and_then(|status| status.reserved_at.as_ref());
    let (None, Some(reserved)) = (before, said.reserved_at.as_ref()) else { return None };
    let queued: Timestamp = lease.spec.queued_at.as_deref()?.parse().ok()?;
    Some((lease.spec.class, reserved.0.duration_since(queued).as_secs_f64().max(0.0)))
}
