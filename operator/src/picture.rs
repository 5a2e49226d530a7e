//! The picture of all nodes on which the operator decides: its engine, made anew from what was seen each time. So it can never drift from the truth
//! of the agents, and a new leader starts like an old one goes on. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use memboss_core::{
    Closed, Demand, EndReason, Engine, GpuFacts, GpuSelector, LeaseId, LeaseRecord, Mib, Moment, NodeFacts, NodeName,
    NodeSelector, Notice, Phase, Placement, Policy, Request, Slot, Span, Token, Waiting,
};
use memboss_crds::{
    Allocation, AllocationState, Health, MemoryNode, VramLease, gpu_share, parse_mib, parse_mib_if_any,
};

use crate::eligibility::{Eligible, Shapes};
use crate::plan::Lately;
use crate::world::{Amounts, Key, World, besides_lease, gate, is_over};

/// How a lease stands, read from its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Not placed, or placed and refused: to be placed.
    #[default]
    Queued,
    /// Placed; the agent has not answered.
    Asked,
    /// The agent took it, or it waits at the agent.
    Held,
    /// Its memory was seen free, or it never had any and its pod is gone.
    Over,
}

/// The answer of the agent to the present placement.
#[must_use]
pub fn answer(lease: &VramLease) -> Option<&Allocation> {
    let status = lease.status.as_ref()?;
    let attempt = status.placement.as_ref()?.attempt;
    status.allocation.as_ref().filter(|allocation| allocation.attempt == attempt)
}

/// How a lease stands.
#[must_use]
pub fn standing(lease: &VramLease) -> Standing {
    let status = lease.status.as_ref();
    if status.and_then(|status| status.phase) == Some(memboss_crds::LeasePhase::Ended) {
        return Standing::Over;
    }
    let Some(_) = status.and_then(|status| status.placement.as_ref()) else { return Standing::Queued };
    match answer(lease).map(|allocation| allocation.state) {
        None => Standing::Asked,
        Some(AllocationState::Refused) => Standing::Queued,
        Some(AllocationState::Ended) => Standing::Over,
        Some(_) => Standing::Held,
    }
}

/// How a lease stands in this world: as its object says, unless what that says can come true no longer.
#[must_use]
pub fn stands(world: &World, lease: &VramLease) -> Standing {
    let by_itself = standing(lease);
    let Some(placed) = lease.status.as_ref().and_then(|status| status.placement.as_ref()) else { return by_itself };
    // A pod behind its gate has started nowhere: whatever became of one placement, there can be another.
    let waits_at_gate = lease.metadata.deletion_timestamp.is_none()
        && world
            .pod_of(lease)
            .is_some_and(|pod| is_gated(pod) && !is_over(pod) && pod.metadata.deletion_timestamp.is_none());
    let node = world.nodes.get(&placed.node);
    let report = world.memory.get(&placed.node).and_then(|node| node.status.as_ref());
    let silent = world.suspects.contains(&placed.node)
        || node.is_none_or(|node| !node.ready)
        || report.is_none_or(|report| report.hold.is_some());
    let timed_out = || answer(lease).is_some_and(|allocation| allocation.state == AllocationState::Waiting);
    let ended = || lease.status.as_ref().and_then(|status| status.phase) == Some(memboss_crds::LeasePhase::Ended);
    match by_itself {
        Standing::Asked if waits_at_gate && silent => Standing::Queued,
        Standing::Held if waits_at_gate && (node.is_none() || timed_out()) => Standing::Queued,
        // Drained or preempted before its pod could start.
        Standing::Over if waits_at_gate && !ended() => Standing::Queued,
        _ => by_itself,
    }
}

/// The picture, and what was left out of it.
#[derive(Debug)]
pub struct Picture {
    /// Nodes, leases and queue.
    pub engine: Engine,
    /// For leases in the queue: where their pods could run.
    pub eligible: BTreeMap<Key, Arc<Eligible>>,
    /// Leases that could not be read, and why.
    pub unreadable: BTreeMap<Key, String>,
    /// What pods take of each node, those included that are on their way there.
    pub taken: BTreeMap<String, Amounts>,
    /// The most RAM that a node has in all; nothing as long as one has not told.
    pub most_ram: Option<Mib>,
}

impl Picture {
    /// What of RAM that lease asks, where no node has so much in all. How much of it can be leased changes, and which nodes take its pod; that does not.
    #[must_use]
    pub fn beyond_ram(&self, lease: &VramLease) -> Option<Waiting> {
        let (need, most) = (ram(lease.spec.ram.as_deref()).ok()?, self.most_ram?);
        (need > most).then_some(Waiting::NoRam { need, most, when_empty: true })
    }
}

fn most_ram(world: &World) -> Option<Mib> {
    let total = |node: &MemoryNode| parse_mib(&node.status.as_ref()?.ram.total).ok().filter(|total| !total.is_zero());
    let totals: Option<Vec<Mib>> = world.memory.values().map(total).collect();
    totals?.into_iter().max()
}

/// Makes the picture. Leases that were refused just now wait a moment, so that what refused them can be seen first.
#[must_use]
pub fn paint(world: &World, lately: &Lately, now: Moment) -> Picture {
    // The agents time reservations and notices; here nothing may run out.
    let never = Span::from_secs(u64::MAX / 4000);
    let policy = Policy { reservation: never, notice_limit: never, ..Policy::default() };
    let mut picture = Picture {
        engine: Engine::new(policy, Token::default()),
        eligible: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        taken: taken(world),
        most_ram: most_ram(world),
    };
    for (name, node) in &world.memory {
        let taken = picture.taken.get(name).copied().unwrap_or_default();
        if let Some(facts) = node_facts(world, name, node, taken) {
            picture.engine.set_node(&facts);
        }
    }
    let mut shapes = Shapes::new(world);
    let mut queued = Vec::new();
    for (key, lease) in &world.leases {
        let outcome = match stands(world, lease) {
            Standing::Over => Ok(()),
            Standing::Held => held(&mut picture.engine, key, lease, now),
            Standing::Asked => asked(&mut picture.engine, key, lease, now),
            Standing::Queued => {
                queued.push((key, lease));
                Ok(())
            }
        };
        if let Err(why) = outcome {
            picture.unreadable.insert(key.clone(), why);
        }
    }
    // One that cannot be read is its agent's, which refuses what does not fit.
    for (key, lease) in &world.in_code {
        if let Err(why) = held(&mut picture.engine, key, lease, now) {
            tracing::debug!(lease = key, why, "a lease in code is not counted");
        }
    }
    for (key, lease) in queued {
        if lately.refused.contains(key) || lease.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let Some(pod) = world.pod_of(lease) else { continue };
        // Memory is not kept for who may not come yet: others hold its pod back too.
        if gate(pod).is_none_or(|(_, gates)| gates > 1) {
            continue;
        }
        let found = shapes.eligible(pod, &picture.taken);
        let submitted = request(key, lease).and_then(|mut request| {
            // What refused it last comes last.
            let shunned = lately.shunned.get(key).filter(|shunned| {
                let others = found.nodes.iter().filter(|node| node != shunned);
                others.into_iter().any(|node| has_gpu_for(world, node, &request))
            });
            request.nodes = if found.nodes.len() == world.memory.len() && shunned.is_none() {
                NodeSelector::Any
            } else {
                let nodes = found.nodes.iter().filter(|node| Some(*node) != shunned);
                NodeSelector::Only(nodes.filter_map(|n| NodeName::new(n.clone()).ok()).collect())
            };
            picture.engine.submit(request).map_err(|refused| refused.to_string())
        });
        picture.eligible.insert(key.clone(), found);
        if let Err(why) = submitted {
            picture.unreadable.insert(key.clone(), why);
        }
    }
    picture
}

/// Whether that node has a GPU that the request accepts, whatever is free there; for RAM alone, whether it is one of ours.
fn has_gpu_for(world: &World, node: &str, request: &Request) -> bool {
    if request.demand.slots.is_empty() {
        return world.memory.contains_key(node);
    }
    let status = world.memory.get(node).and_then(|node| node.status.as_ref());
    let mut gpus = status.into_iter().flat_map(|status| &status.gpus);
    gpus.any(|gpu| gpu.named().is_ok_and(|(uuid, model)| request.gpus.accepts(&uuid, &model)))
}

/// What of the requests of pods that are bound is carried by leases that hold it now, in bytes: that part is counted among leases, those in code too. A lease that has ended
/// or waits holds nothing, and its pod's request fills the node all the same.
fn carried(world: &World) -> BTreeMap<Key, u64> {
    let held = |lease: &VramLease| {
        let allocation = answer(lease)?;
        let charged = matches!(
            allocation.state,
            AllocationState::Reserved | AllocationState::Active | AllocationState::Revoking | AllocationState::Stopping
        );
        let asked = parse_mib(lease.spec.ram.as_deref()?).ok()?;
        let holds = parse_mib(allocation.ram.as_deref().filter(|_| charged)?).ok()?;
        Some((crate::world::key(world.pod_of(lease)?), asked.min(holds).bytes()))
    };
    let mut carried: BTreeMap<Key, u64> =
        world.leases.values().filter(|lease| stands(world, lease) == Standing::Held).filter_map(held).collect();
    // What a pod leases in code, its own request carries too, as far as that goes.
    for lease in world.in_code.values() {
        let allocation = lease.status.as_ref().and_then(|status| status.allocation.as_ref());
        let ram = allocation.and_then(|allocation| parse_mib(allocation.ram.as_deref()?).ok()).unwrap_or_default();
        let pod = format!("{}/{}", lease.namespace().unwrap_or_default(), lease.spec.subject.pod_name);
        *carried.entry(pod).or_default() += ram.bytes();
    }
    carried
}

/// What is taken of each node: by pods that are bound there, and by those that are placed there and not bound yet.
fn taken(world: &World) -> BTreeMap<String, Amounts> {
    let mut taken: BTreeMap<String, Amounts> = BTreeMap::new();
    let mut add = |node: &str, amounts: Amounts| match taken.get_mut(node) {
        Some(sum) => *sum = sum.plus(amounts),
        None => drop(taken.insert(node.to_owned(), amounts)),
    };
    let carried = carried(world);
    for (pod, (node, amounts)) in &world.usage {
        let carried = carried.get(pod).copied().unwrap_or_default();
        add(node, Amounts { memory: amounts.memory.saturating_sub(carried), ..*amounts });
    }
    for lease in world.leases.values() {
        let placed = lease.status.as_ref().and_then(|status| status.placement.as_ref());
        let (Some(placed), Some(pod)) = (placed, world.pod_of(lease)) else { continue };
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if !bound && matches!(stands(world, lease), Standing::Asked | Standing::Held) {
            add(&placed.node, besides_lease(pod));
        }
    }
    taken
}

/// What leases may hold of a node's RAM in all: what its kubelet lets pods have, less what those take beside their leases, which their requests carry.
#[must_use]
pub fn ram_room(world: &World, node: &str, taken: Amounts) -> Mib {
    let allocatable = world.nodes.get(node).map_or(0, |info| info.allocatable.memory);
    Mib::from_bytes_floor(allocatable.saturating_sub(taken.memory))
}

fn node_facts(world: &World, name: &str, node: &MemoryNode, taken: Amounts) -> Option<NodeFacts> {
    let status = node.status.as_ref()?;
    let info = world.nodes.get(name);
    let closed = if node.spec.drain || info.is_some_and(|info| info.unschedulable) {
        Some(Closed::Draining)
    } else if status.hold.is_some() {
        Some(Closed::Quarantine)
    } else if world.suspects.contains(name) || info.is_none_or(|info| !info.ready) {
        Some(Closed::Suspect)
    } else {
        None
    };
    let mib = |text: &str| parse_mib(text).unwrap_or_default();
    let gpu = |gpu: &memboss_crds::Gpu| {
        let health = match gpu.health {
            Health::Healthy => None,
            Health::Degraded => Some(Closed::Degraded),
            Health::Lost => Some(Closed::Lost),
        };
        let (uuid, model) = gpu.named().ok()?;
        Some(GpuFacts {
            uuid,
            model,
            leasable: mib(&gpu.leasable),
            foreign: mib(&gpu.foreign),
            closed: health.or(node.spec.drain_gpus.contains(&gpu.uuid).then_some(Closed::Draining)),
        })
    };
    Some(NodeFacts {
        name: NodeName::new(name).ok()?,
        gpus: status.gpus.iter().filter_map(gpu).collect(),
        gpus_unread: status.gpus_unread,
        ram: mib(&status.ram.leasable).min(ram_room(world, name, taken)),
        ram_closed: status.ram.closed.is_some().then_some(Closed::NodePressure),
        closed,
    })
}

/// The request that a lease's object stands for.
///
/// # Errors
/// What in it makes no sense.
pub fn request(key: &str, lease: &VramLease) -> Result<Request, String> {
    let spec = &lease.spec;
    let slots = spec.slots.iter().map(Slot::try_from).collect::<Result<_, _>>().map_err(|bad| bad.to_string())?;
    let id = LeaseId::new(key).map_err(|bad| bad.to_string())?;
    let mut request = lease.request(id, Demand { slots, ram: ram(spec.ram.as_deref())? });
    request.gpus = GpuSelector::try_from(&spec.selector).map_err(|bad| bad.to_string())?;
    request.layout = spec.layout.into();
    Ok(request)
}

/// A timestamp as a moment.
#[must_use]
pub fn moment(at: Option<Timestamp>) -> Moment {
    Moment::from_millis(at.map_or(0, |at| u64::try_from(at.as_millisecond()).unwrap_or(0)))
}

fn ram(written: Option<&str>) -> Result<Mib, String> {
    parse_mib_if_any(written).map_err(|bad| bad.to_string())
}

fn placement<'a>(
    node: &str,
    gpus: impl Iterator<Item = (&'a str, &'a str)>,
    written: Option<&str>,
) -> Result<Placement, String> {
    let node = NodeName::new(node).map_err(|bad| bad.to_string())?;
    let gpus =
        gpus.map(|(uuid, memory)| gpu_share(uuid, memory)).collect::<Result<_, _>>().map_err(|bad| bad.to_string())?;
    Ok(Placement { node, gpus, ram: ram(written)? })
}

/// The agent has it: that is a fact, whatever the picture would have decided.
fn held(engine: &mut Engine, key: &str, lease: &VramLease, now: Moment) -> Result<(), String> {
    let (Some(placed), Some(allocation)) = (lease.status.as_ref().and_then(|s| s.placement.as_ref()), answer(lease))
    else {
        return Ok(());
    };
    // The object tells whole seconds, cut off: protection by it would be over before its agent thinks so, which would refuse.
    let since = moment(lease.status.as_ref().and_then(|s| s.active_at.as_ref()).map(|time| time.0));
    let since = since.after(Span::from_secs(1));
    let phase = match allocation.state {
        AllocationState::Claimed => return asked(engine, key, lease, now),
        // It waits in the agent's own queue, bound to that node: not for the operator to place.
        AllocationState::Waiting | AllocationState::Refused | AllocationState::Ended => return Ok(()),
        AllocationState::Reserved => Phase::Reserved { until: Moment::from_millis(u64::MAX) },
        AllocationState::Active => Phase::Active { since },
        AllocationState::Revoking => Phase::Revoking { since, notice: open_notice() },
        AllocationState::Stopping => Phase::Stopping { reason: EndReason::Preempted },
    };
    let gpus = allocation.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.memory.as_str()));
    let placement = placement(&placed.node, gpus, allocation.ram.as_deref())?;
    let mut request = request(key, lease)?;
    // Where it is counts, not where it might have gone.
    request.nodes = NodeSelector::Any;
    engine
        .adopt(LeaseRecord { request, phase, placement: Some(placement), token: Token::default() })
        .map_err(|refused| refused.to_string())
}

/// A notice that the agent times.
fn open_notice() -> Notice {
    let deadline = Moment::from_millis(u64::MAX);
    Notice {
        preemptor: None,
        class: None,
        reason: EndReason::Preempted,
        needed: Vec::new(),
        needed_ram: Mib::ZERO,
        deadline,
    }
}

/// Placed, and not taken yet: its memory is set aside, or what its victims will free is.
fn asked(engine: &mut Engine, key: &str, lease: &VramLease, now: Moment) -> Result<(), String> {
    let Some(placed) = lease.status.as_ref().and_then(|s| s.placement.as_ref()) else { return Ok(()) };
    let gpus = placed.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.memory.as_str()));
    let placement = placement(&placed.node, gpus, placed.ram.as_deref())?;
    let request = request(key, lease)?;
    // If the picture says it cannot be, the agent will: its answer is what counts.
    drop(engine.admit(request, &placement, true, now));
    Ok(())
}

/// Whether a pod's gate of ours is still closed.
#[must_use]
pub fn is_gated(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    gate(pod).is_some()
}
