//! What to do next: everything that should be written, from everything that was seen. Pure; the same world gives the same plan, and a world in which
//! all of it was done gives none.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use memboss_core::{Decision, EndReason, LeaseId, Moment};
use memboss_crds::{
    AllocationState, Epoch, FORCE_END, GpuAmount, LeasePhase, Placement, VramLease, VramLeaseStatus, kind_of, quantity,
};
use serde_json::Value;

use crate::annotations;
use crate::leases::{lease_for, name_for, open_gate, owner_of};
use crate::picture::{Picture, Standing, answer, is_gated, moment, paint, ram_room, stands};
use crate::status::{self, Context};
use crate::world::{Amounts, Key, World, besides_lease, is_over, key};

/// Only so many places in the queue are told: each change of the front would move all of them.
const TOLD_PLACES: usize = 100;
/// A pod whose reservation timed out and that has not got its memory back after so long is made anew by its controller.
const COMES_BY: SignedDuration = SignedDuration::from_secs(120);
/// The seconds that a pod always gets between SIGTERM and SIGKILL, and the most that it gets while others wait for its memory.
const LEAST_GRACE: u32 = 1;
const LONGEST_GRACE: u32 = 30;

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// A pod needs a lease.
    Create(Box<VramLease>),
    /// A lease goes there, if nobody changed it meanwhile, and its status says so.
    Place(Key, Placement, Box<VramLeaseStatus>),
    /// A lease is not wanted any more.
    Withdraw(Key, EndReason),
    /// A lease's status should say this.
    Say(Key, Box<VramLeaseStatus>),
    /// A preempted lease's place in the queue was taken over by that one.
    Inherited(Key, String),
    /// A pod may start, there.
    OpenGate(Key, Value),
    /// A pod has to go: politely.
    Evict(Key, EndReason),
    /// A lease is over and to be forgotten, or is being deleted and holds nothing: its finalizer may go.
    Release(Key),
    /// An ended lease is history no longer.
    Forget(Key),
}

impl Act {
    /// The object that is written: one write at a time for each.
    #[must_use]
    pub fn object(&self) -> (&'static str, Key) {
        match self {
            Self::Create(lease) => ("lease", key(lease.as_ref())),
            Self::Place(lease, ..)
            | Self::Withdraw(lease, _)
            | Self::Say(lease, _)
            | Self::Inherited(lease, _)
            | Self::Release(lease)
            | Self::Forget(lease) => ("lease", lease.clone()),
            Self::OpenGate(pod, _) | Self::Evict(pod, _) => ("pod", pod.clone()),
        }
    }
}

/// What was done or heard just now, so that it is not done again at once.
#[derive(Clone, Debug, Default)]
pub struct Lately {
    /// Leases whose placement was refused: they wait a moment, so that what refused them can be seen first.
    pub refused: BTreeSet<Key>,
    /// The node that refused a lease last: for a while another is tried first.
    pub shunned: BTreeMap<Key, String>,
    /// Leases whose status was written: numbers alone are not written again yet.
    pub told: BTreeSet<Key>,
}

/// Settings of planning.
#[derive(Clone, Debug)]
pub struct Planning {
    /// Which leader decides.
    pub epoch: Epoch,
    /// How long ended leases are kept.
    pub history: std::time::Duration,
}

/// Plans.
#[must_use]
pub fn plan(world: &World, planning: &Planning, lately: &Lately, now: Timestamp) -> (Vec<Act>, Option<Moment>) {
    let at = moment(Some(now));
    let mut picture = paint(world, lately, at);
    let mut decisions = picture.engine.decide(at);
    let mut acts = Vec::new();
    if world.closed {
        decisions.clear();
    } else {
        new_leases(world, &mut acts);
    }
    let placed = placements(world, planning, &mut picture.taken, decisions, now, &mut acts);
    let places = places(&picture);
    for (key, lease) in &world.leases {
        if placed.contains(key) {
            continue;
        }
        lease_acts(world, &picture, &places, key, lease, planning, lately, now, &mut acts);
    }
    (acts, picture.engine.next_wake().filter(|wake| wake.millis() < u64::MAX / 8))
}

fn new_leases(world: &World, acts: &mut Vec<Act>) {
    let mut inherited = BTreeSet::new();
    for pod in world.pods.values() {
        if is_over(pod) || pod.metadata.deletion_timestamp.is_some() || !is_gated(pod) {
            continue;
        }
        // What is wrong with it was said at admission; what slipped past is refused there by policy.
        let Some(asked) = annotations::read(pod).ok().flatten().filter(annotations::Asked::is_lease) else { continue };
        let name = name_for(pod, &asked);
        if world.leases.contains_key(&format!("{}/{name}", pod.namespace().unwrap_or_default())) {
            continue;
        }
        let heir_of = owner_of(pod).and_then(|owner| preempted_of(world, (pod, &name), &owner.uid, &inherited));
        if let Some(old) = heir_of {
            inherited.insert(crate::world::key(old));
        }
        let lease = lease_for(pod, &asked, heir_of);
        if let Some(old) = heir_of {
            acts.push(Act::Inherited(crate::world::key(old), object_of(&lease.name_any())));
        }
        acts.push(Act::Create(Box::new(lease)));
    }
}

/// The earliest lease of that owner that was preempted and has no heir yet.
fn preempted_of<'a>(
    world: &'a World,
    (pod, name): (&Pod, &str),
    owner: &str,
    taken: &BTreeSet<Key>,
) -> Option<&'a VramLease> {
    let of_owner = |lease: &&VramLease| {
        lease.namespace() == pod.namespace() && lease.spec.subject.owner.as_ref().is_some_and(|o| o.uid == owner)
    };
    // Who has its place is its heir, also when that could not be noted.
    let has_heir = |old: &VramLease| {
        let follows =
            |heir: &VramLease| heir.spec.queued_at == old.spec.queued_at && heir.spec.preempted > old.spec.preempted;
        // What was noted for this very pod, whose lease could not be made then, is its own.
        let noted = old.status.as_ref().and_then(|status| status.inherited_by.as_ref());
        noted.is_some_and(|heir| *heir != object_of(name)) || world.leases.values().filter(of_owner).any(follows)
    };
    let mut found: Vec<_> = world
        .leases
        .values()
        .filter(of_owner)
        .filter(|lease| was_preempted(lease) && !taken.contains(&crate::world::key(*lease)) && !has_heir(lease))
        .collect();
    found.sort_by(|a, b| a.spec.queued_at.cmp(&b.spec.queued_at));
    found.first().copied()
}

/// The object's name of a lease among both kinds.
fn object_of(name: &str) -> String {
    kind_of(name).1.to_owned()
}

fn was_preempted(lease: &VramLease) -> bool {
    let preempted = EndReason::Preempted.name();
    let status = lease.status.as_ref();
    let ended = status.and_then(|status| status.end_reason.as_deref()) == Some(preempted);
    let going =
        answer(lease).is_some_and(|a| a.state == AllocationState::Stopping && a.reason.as_deref() == Some(preempted));
    ended || going
}

/// Grants and claims of the picture become placements, unless the lease has just that one already. The picture counts memory alone: what else the pods
/// of one plan take of a node is counted here, and who finds no room any more is looked at again in the next.
fn placements(
    world: &World,
    planning: &Planning,
    taken: &mut BTreeMap<String, Amounts>,
    decisions: Vec<Decision>,
    now: Timestamp,
    acts: &mut Vec<Act>,
) -> BTreeSet<Key> {
    let mut placed = BTreeSet::new();
    for decision in decisions {
        let (id, placement, victims) = match decision {
            Decision::Grant { lease, placement, .. } => (lease, placement, Vec::new()),
            Decision::Claim { lease, placement, victims } => (lease, placement, victims),
            _ => continue,
        };
        let Some(lease) = world.leases.get(id.as_str()).filter(|lease| stands(world, lease) == Standing::Queued) else {
            continue;
        };
        placed.insert(id.to_string());
        if !takes(world, taken, placement.node.as_str(), lease) {
            continue;
        }
        let beside = taken.get(placement.node.as_str()).copied().unwrap_or_default();
        let room = ram_room(world, placement.node.as_str(), beside);
        let before =
            lease.status.as_ref().and_then(|status| status.placement.as_ref()).map_or(0, |placed| placed.attempt);
        let gpus = placement
            .gpus
            .iter()
            .map(|share| GpuAmount { uuid: share.uuid.to_string(), memory: quantity(share.memory) });
        let placement = Placement {
            node: placement.node.to_string(),
            gpus: gpus.collect(),
            ram: (!placement.ram.is_zero()).then(|| quantity(placement.ram)),
            ram_room: (!placement.ram.is_zero()).then(|| quantity(room)),
            epoch: planning.epoch.clone(),
            attempt: before + 1,
            victims: victims.iter().map(LeaseId::to_string).collect(),
            withdrawn: None,
        };
        let mut there = lease.clone();
        there.status.get_or_insert_default().placement = Some(placement.clone());
        let said = status::desired(&there, &Context { standing: Standing::Asked, ..Context::default() }, now);
        acts.push(Act::Place(id.to_string(), placement, Box::new(said)));
    }
    placed
}

/// Takes the place that the lease's pod needs on that node beside what it leases, if there is as much.
fn takes(world: &World, taken: &mut BTreeMap<String, Amounts>, node: &str, lease: &VramLease) -> bool {
    let (Some(pod), Some(info)) = (world.pod_of(lease), world.nodes.get(node)) else { return false };
    let sum = taken.get(node).copied().unwrap_or_default().plus(besides_lease(pod));
    let fits = sum.lacking(info.allocatable).is_none();
    if fits {
        taken.insert(node.to_owned(), sum);
    }
    fits
}

fn places(picture: &Picture) -> BTreeMap<Key, u32> {
    let told = picture.engine.queue().into_iter().take(TOLD_PLACES).zip(1..);
    told.map(|(id, place)| (id.to_string(), place)).collect()
}

#[expect(clippy::too_many_arguments, reason = "the parts of one plan, passed down once")]
fn lease_acts(
    world: &World,
    picture: &Picture,
    places: &BTreeMap<Key, u32>,
    key: &Key,
    lease: &VramLease,
    planning: &Planning,
    lately: &Lately,
    now: Timestamp,
    acts: &mut Vec<Act>,
) {
    let pod = world.pod_of(lease);
    if lease.status.as_ref().and_then(|status| status.phase) == Some(LeasePhase::Ended) {
        return ended_acts(key, lease, pod, planning, now, acts);
    }
    let pod_is_over = pod.is_none_or(is_over);
    let placed = lease.status.as_ref().and_then(|status| status.placement.as_ref());
    let standing = stands(world, lease);
    let context = Context {
        standing,
        other_gates: pod.map(other_gates).unwrap_or_default(),
        view: LeaseId::new(key.clone()).ok().and_then(|id| picture.engine.lease(&id)),
        position: places.get(key).copied(),
        nowhere: picture.eligible.get(key).filter(|found| found.nodes.is_empty()).map(|found| found.sentence()),
        beyond_ram: picture.beyond_ram(lease),
        unreadable: picture.unreadable.get(key).cloned(),
        pod_is_over,
        node_is_gone: placed.is_some_and(|placed| !world.nodes.contains_key(&placed.node)),
        forced: lease.annotations().contains_key(FORCE_END),
    };
    let old = lease.status.clone().unwrap_or_default();
    let desired = status::desired(lease, &context, now);
    let ends = desired.phase == Some(LeasePhase::Ended) || lease.metadata.deletion_timestamp.is_some();
    let later = lately.told.contains(key) && status::differs_in_numbers_only(&old, &desired);
    if !status::says_the_same(&old, &desired) && !later {
        acts.push(Act::Say(key.clone(), Box::new(desired)));
    } else if pod_is_over
        && placed.is_some_and(|placed| placed.withdrawn.is_none())
        && matches!(standing, Standing::Asked | Standing::Held)
    {
        let reason = if pod.is_some() { EndReason::Exited } else { EndReason::Deleted };
        acts.push(Act::Withdraw(key.clone(), reason));
        return;
    }
    if let (Some(pod), Some(placed), Some(allocation)) = (pod, placed, answer(lease)) {
        let may_start = standing == Standing::Held && !ends && placed.withdrawn.is_none() && takes_pods(world, placed);
        let overdue = status::timed_out_since(&old).is_some_and(|since| now.duration_since(since) > COMES_BY);
        pod_acts(pod, placed, allocation, may_start, overdue, acts);
    }
}

/// Whether a pod that came there now would find its memory. Behind its gate it can still go elsewhere; afterwards it cannot. Where the node holds back, it
/// would fail for good (the device plugin is away) or be sent off again.
fn takes_pods(world: &World, placed: &Placement) -> bool {
    let holds = |node: &memboss_crds::MemoryNode| node.status.as_ref().is_none_or(|status| status.hold.is_some());
    world.nodes.get(&placed.node).is_some_and(|node| node.ready)
        && !world.suspects.contains(&placed.node)
        && world.memory.get(&placed.node).is_some_and(|node| !holds(node))
}

fn pod_acts(
    pod: &Pod,
    placed: &Placement,
    allocation: &memboss_crds::Allocation,
    may_start: bool,
    overdue: bool,
    acts: &mut Vec<Act>,
) {
    let going = pod.metadata.deletion_timestamp.is_some();
    if is_over(pod) {
        return;
    }
    match allocation.state {
        AllocationState::Reserved | AllocationState::Active if is_gated(pod) && !going && may_start => {
            if let Some(patch) = open_gate(pod, &placed.node) {
                acts.push(Act::OpenGate(key(pod), patch));
            }
        }
        // It runs nowhere yet: it is placed again when this placement is over.
        AllocationState::Stopping if is_gated(pod) => {}
        AllocationState::Stopping => {
            let reason = allocation.reason.as_deref().and_then(EndReason::from_name).unwrap_or(EndReason::Preempted);
            // Whoever exits by itself needs no push; one that goes too slowly for those who wait does.
            let pushed = !matches!(reason, EndReason::Exited | EndReason::Released);
            if pushed && (!going || goes_slowly(pod, reason)) {
                acts.push(Act::Evict(key(pod), reason));
            }
        }
        // Bound to a node that gave its memory to others. Whoever made it makes another, which can go elsewhere; nobody would make a bare one again.
        AllocationState::Waiting if overdue && !going && !is_gated(pod) && owner_of(pod).is_some() => {
            acts.push(Act::Evict(key(pod), EndReason::Expired));
        }
        _ => {}
    }
}

/// The seconds between SIGTERM and SIGKILL for a pod that ends for that reason: its own, and no more than these where others wait for its memory.
#[must_use]
pub fn grace_for(pod: &Pod, reason: EndReason) -> u32 {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let own = own.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(LONGEST_GRACE);
    // A forced deletion would free the pod's units before the kubelet has freed them.
    let own = own.max(LEAST_GRACE);
    if matches!(reason, EndReason::Preempted | EndReason::OverLease | EndReason::NodePressure) {
        own.min(LONGEST_GRACE)
    } else {
        own
    }
}

/// Whether it is being deleted with more time than it would get for that reason.
fn goes_slowly(pod: &Pod, reason: EndReason) -> bool {
    let given = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u32::try_from(seconds).ok());
    given.is_some_and(|given| given > grace_for(pod, reason))
}

/// The names of the pod's gates that are not ours.
fn other_gates(pod: &Pod) -> Vec<String> {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.clone()).filter(|name| name != memboss_crds::GATE).collect()
}

fn ended_acts(
    key: &Key,
    lease: &VramLease,
    pod: Option<&Pod>,
    planning: &Planning,
    now: Timestamp,
    acts: &mut Vec<Act>,
) {
    if lease.metadata.deletion_timestamp.is_some() {
        if lease.finalizers().iter().any(|finalizer| finalizer == memboss_crds::FINALIZER) {
            acts.push(Act::Release(key.clone()));
        }
        return;
    }
    let ended = lease.status.as_ref().and_then(|status| status.ended_at.as_ref()).map(|time| time.0);
    let age = ended.map_or(0, |ended| now.duration_since(ended).as_secs());
    // Pinned to a node that is gone it can start nowhere, and nobody collects it. Whoever made it makes another.
    let lost =
        lease.status.as_ref().and_then(|status| status.end_reason.as_deref()) == Some(EndReason::NodeLost.name());
    let stuck = |pod: &&Pod| {
        let unbound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
        unbound
            && !is_gated(pod)
            && !is_over(pod)
            && pod.metadata.deletion_timestamp.is_none()
            && owner_of(pod).is_some()
    };
    if let Some(pod) = pod.filter(stuck).filter(|_| lost) {
        acts.push(Act::Evict(self::key(pod), EndReason::NodeLost));
    }
    // A pod that still waits at its gate needs a lease: the ended one makes way for it.
    let waits = pod.is_some_and(|pod| is_gated(pod) && !is_over(pod) && pod.metadata.deletion_timestamp.is_none());
    if waits || u64::try_from(age).unwrap_or(0) >= planning.history.as_secs() {
        acts.push(Act::Forget(key.clone()));
    }
}

#[cfg(test)]
#[path = "plan_bed.rs"]
mod bed;
#[cfg(test)]
#[path = "plan_in_code_tests.rs"]
mod in_code_tests;
#[cfg(test)]
#[path = "plan_ram_tests.rs"]
mod ram_tests;
#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
