//! `VramLease` objects as orders, and what became of them as allocations. Pure; an object that makes no sense is an error, not an order.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use memboss_core::{Demand, EndReason, GpuShare, LeaseId, Mib, NodeName, NodeSelector, Placement, Slot, Span, Token};
use memboss_crds as crds;
use memboss_crds::{VramLease, gpu_share, parse_mib_if_any, quantity};

use crate::node::view::LeaseSeen;
use crate::order::{ContainerSlots, Epoch, Order, Recorded, State, Subject};
use crate::probes::processes::PodUid;

/// Why an object is no order.
#[derive(Debug, thiserror::Error)]
#[error("failed to read lease {lease}: {what}")]
pub(super) struct Unreadable {
    lease: String,
    what: String,
}

/// The id of an object's lease.
pub(super) fn id(lease: &VramLease) -> Result<LeaseId, Unreadable> {
    let name = format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any());
    LeaseId::new(name.clone()).map_err(|bad| Unreadable { lease: name, what: bad.to_string() })
}

/// The order that an object is for that node; nothing if it has no placement there.
pub(super) fn order(lease: &VramLease, node: &str) -> Result<Option<Order>, Unreadable> {
    let id = id(lease)?;
    let status = lease.status.as_ref();
    let Some(placed) = status.and_then(|status| status.placement.as_ref()).filter(|placed| placed.node == node) else {
        return Ok(None);
    };
    read(lease, &id, placed).map(Some).map_err(|what| Unreadable { lease: id.to_string(), what })
}

fn read(lease: &VramLease, id: &LeaseId, placed: &crds::Placement) -> Result<Order, String> {
    let spec = &lease.spec;
    let gpus = placed.gpus.iter().map(|gpu| share(&gpu.uuid, &gpu.memory)).collect::<Result<Vec<_>, _>>()?;
    let node = NodeName::new(placed.node.clone()).map_err(|bad| bad.to_string())?;
    if gpus.len() != spec.slots.len() {
        return Err(format!("its placement has {} GPU(s) for {} slot(s)", gpus.len(), spec.slots.len()));
    }
    let ram = amount(placed.ram.as_deref())?;
    let asked = amount(spec.ram.as_deref())?;
    if ram != asked {
        return Err(format!("its placement has {ram} of RAM for {asked}"));
    }
    let demand = Demand { slots: gpus.iter().map(|share| Slot::fixed(share.memory)).collect(), ram };
    let mut request = lease.request(id.clone(), demand);
    request.nodes = NodeSelector::Only([node.clone()].into());
    let deleting = lease.metadata.deletion_timestamp.is_some();
    let withdrawn = placed.withdrawn.as_deref().map(|word| EndReason::from_name(word).unwrap_or(EndReason::Released));
    let containers = spec.containers.iter().map(container).collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(Order {
        object: lease.metadata.uid.clone().unwrap_or_default(),
        subject: Subject {
            pod: PodUid(spec.subject.pod_uid.clone()),
            namespace: lease.namespace().unwrap_or_default(),
            name: spec.subject.pod_name.clone(),
        },
        request,
        placement: Placement { node, gpus, ram },
        ram_room: placed.ram_room.as_deref().map(|text| amount(Some(text))).transpose()?,
        may_preempt: !placed.victims.is_empty(),
        epoch: Epoch { incarnation: placed.epoch.incarnation.clone(), number: placed.epoch.number },
        attempt: placed.attempt,
        unwanted: withdrawn.or(deleting.then_some(EndReason::Deleted)),
        deleting,
        containers,
        recorded: lease.status.as_ref().and_then(|status| status.allocation.as_ref()).map(recorded).transpose()?,
    })
}

fn amount(written: Option<&str>) -> Result<Mib, String> {
    parse_mib_if_any(written).map_err(|bad| bad.to_string())
}

fn share(uuid: &str, memory: &str) -> Result<GpuShare, String> {
    gpu_share(uuid, memory).map_err(|bad| bad.to_string())
}

fn container(container: &crds::ContainerSlots) -> Result<(String, ContainerSlots), String> {
    let slots = container.slots.iter().filter_map(|slot| usize::try_from(*slot).ok()).collect();
    let asks = container.asks.iter().map(Slot::try_from).collect::<Result<_, _>>().map_err(|bad| bad.to_string())?;
    Ok((container.name.clone(), ContainerSlots { slots, asks }))
}

fn recorded(allocation: &crds::Allocation) -> Result<Recorded, String> {
    Ok(Recorded {
        state: state_of(allocation.state),
        attempt: allocation.attempt,
        gpus: allocation.gpus.iter().map(|gpu| share(&gpu.uuid, &gpu.memory)).collect::<Result<_, _>>()?,
        ram: amount(allocation.ram.as_deref())?,
        token: allocation.token.map(|t| Token { epoch: t.epoch, sequence: t.sequence }).unwrap_or_default(),
        reason: allocation.reason.as_deref().and_then(EndReason::from_name),
    })
}

const fn state_of(state: crds::AllocationState) -> State {
    match state {
        crds::AllocationState::Refused => State::Refused,
        crds::AllocationState::Waiting => State::Waiting,
        crds::AllocationState::Claimed => State::Claimed,
        crds::AllocationState::Reserved => State::Reserved,
        crds::AllocationState::Active => State::Active,
        crds::AllocationState::Revoking => State::Revoking,
        crds::AllocationState::Stopping => State::Stopping,
        crds::AllocationState::Ended => State::Ended,
    }
}

const fn state_word(state: State) -> crds::AllocationState {
    match state {
        State::Refused => crds::AllocationState::Refused,
        State::Waiting => crds::AllocationState::Waiting,
        State::Claimed => crds::AllocationState::Claimed,
        State::Reserved => crds::AllocationState::Reserved,
        State::Active => crds::AllocationState::Active,
        State::Revoking => crds::AllocationState::Revoking,
        State::Stopping => crds::AllocationState::Stopping,
        State::Ended => crds::AllocationState::Ended,
    }
}

/// When a notice was told and for how long, kept as it was first said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) span: Span,
    pub(super) at: Time,
}

/// What became of a placement, in the words of the API.
pub(super) fn allocation(seen: &LeaseSeen, told: Option<&Told>) -> crds::Allocation {
    let gpus: Vec<crds::AllocatedGpu> = seen
        .gpus
        .iter()
        .map(|(uuid, index, model, memory)| crds::AllocatedGpu {
            uuid: uuid.to_string(),
            index: *index,
            model: model.clone(),
            memory: quantity(*memory),
        })
        .collect();
    let display = gpus.iter().map(|gpu| format!("gpu{}", gpu.index)).collect::<Vec<_>>().join(",");
    let granted = seen.token != Token::default();
    crds::Allocation {
        state: state_word(seen.state),
        attempt: seen.answered.attempt,
        gpus,
        display: (!display.is_empty()).then_some(display),
        ram: (!seen.ram.is_zero()).then(|| quantity(seen.ram)),
        token: granted.then_some(crds::Token { epoch: seen.token.epoch, sequence: seen.token.sequence }),
        notice: seen.notice.as_ref().map(|notice| crds::Notice {
            preemptor: notice.preemptor.clone(),
            preemptor_class: notice.class.map(Into::into),
            reason: notice.reason.to_owned(),
            needed: notice.needed.iter().map(|needed| quantity(*needed)).collect(),
            needed_ram: (!notice.needed_ram.is_zero()).then(|| quantity(notice.needed_ram)),
            deadline_seconds: told.map_or(0, |told| told.span.secs_ceil()),
            sent_at: told.map(|told| told.at.clone()),
        }),
        reason: seen.reason.clone(),
        message: seen.message.clone(),
        used: used(seen).map(quantity),
        over_lease: seen.over,
    }
}

/// Of GPU memory where the lease has some, of RAM where it has nothing else.
fn used(seen: &LeaseSeen) -> Option<Mib> {
    let on_gpus = (!seen.used.is_empty()).then(|| seen.used.iter().copied().sum());
    on_gpus.or(seen.ram_used.filter(|_| seen.gpus.is_empty()))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
