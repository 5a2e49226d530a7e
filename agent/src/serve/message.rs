//! What is published, in the words of the protocol.

use memboss_agent_api::v1;
use memboss_core::{Estimate, LeaseId, Mib, Moment};

use crate::health::Health;
use crate::node::view::{GpuSeen, LeaseSeen, NoticeSeen, RamSeen, Snapshot, Whose};
use crate::order::State;

/// The node as it stands.
pub(super) fn status(snapshot: &Snapshot, now: Moment) -> v1::StatusResponse {
    let leases = snapshot.leases.iter().map(|(id, seen)| lease(id, seen, now)).collect();
    v1::StatusResponse { leases, ..figures(snapshot) }
}

/// The node as it stands, but for its leases.
pub(super) fn figures(snapshot: &Snapshot) -> v1::StatusResponse {
    v1::StatusResponse {
        node: snapshot.node.clone(),
        gpus: Some(gpu_list(snapshot)),
        ram: Some(ram(&snapshot.ram)),
        leases: Vec::new(),
        boot_id: snapshot.boot_id.clone(),
        agent_epoch: snapshot.agent_epoch,
    }
}

pub(super) fn gpu_list(snapshot: &Snapshot) -> v1::GpuList {
    v1::GpuList {
        gpus: snapshot.gpus.iter().map(gpu).collect(),
        hold: snapshot.hold.clone().unwrap_or_default(),
        unread: snapshot.gpus_unread,
    }
}

fn gpu(seen: &GpuSeen) -> v1::Gpu {
    let health = match seen.health {
        Health::Healthy => v1::Health::Healthy,
        Health::Degraded => v1::Health::Degraded,
        Health::Lost => v1::Health::Lost,
    };
    v1::Gpu {
        uuid: seen.uuid.to_string(),
        index: seen.index,
        model: seen.model.clone(),
        total_mib: seen.total.mib(),
        reserved_mib: seen.reserved.mib(),
        leasable_mib: seen.leasable.mib(),
        leased_mib: seen.leased.mib(),
        foreign_mib: seen.foreign.mib(),
        used_mib: seen.used.mib(),
        health: health.into(),
        health_reason: seen.health_reason.clone(),
    }
}

pub(super) fn ram(seen: &RamSeen) -> v1::Ram {
    v1::Ram {
        total_mib: seen.total.mib(),
        available_mib: seen.available.mib(),
        leasable_mib: seen.leasable.mib(),
        leased_mib: seen.leased.mib(),
        pressure: seen.pressure.name().to_owned(),
        pressure_sign: seen.sign.map_or("", memboss_core::Sign::name).to_owned(),
    }
}

pub(super) fn lease(id: &LeaseId, seen: &LeaseSeen, now: Moment) -> v1::LeaseView {
    let phase = match seen.state {
        State::Refused | State::Waiting | State::Claimed => v1::Phase::Waiting,
        State::Reserved => v1::Phase::Reserved,
        State::Active => v1::Phase::Active,
        State::Revoking => v1::Phase::Revoking,
        State::Stopping => v1::Phase::Stopping,
        State::Ended => v1::Phase::Ended,
    };
    let share = |(uuid, index, _, memory): &(memboss_core::GpuUuid, u32, String, Mib)| v1::GpuShare {
        uuid: uuid.to_string(),
        index: *index,
        memory_mib: memory.mib(),
    };
    v1::LeaseView {
        lease: id.to_string(),
        phase: phase.into(),
        class: seen.class.map_or("", memboss_core::Class::name).to_owned(),
        gpus: seen.gpus.iter().map(share).collect(),
        ram_mib: seen.ram.mib(),
        token: Some(v1::Token { epoch: seen.token.epoch, sequence: seen.token.sequence }),
        notice: seen.notice.as_ref().map(|told| notice(told, now)),
        reason: seen.reason.clone().unwrap_or_default(),
        message: seen.message.clone().unwrap_or_default(),
        queue: matches!(seen.state, State::Waiting | State::Claimed).then(|| queue(seen, now)),
        holder: seen.whose.as_ref().map(|whose| holder(whose, seen, now)),
    }
}

fn queue(seen: &LeaseSeen, now: Moment) -> v1::Queue {
    v1::Queue {
        position: seen.position.and_then(|at| u32::try_from(at).ok()).unwrap_or_default(),
        reason: seen.reason.clone().unwrap_or_default(),
        message: seen.message.clone().unwrap_or_default(),
        ..estimated(seen.estimate, now)
    }
}

/// A queue of which no more is known than when it will have been waited through.
pub(super) fn estimated(estimate: Option<Estimate>, now: Moment) -> v1::Queue {
    v1::Queue {
        estimate_ms: estimate.map(|estimate| estimate.by.since(now).millis()),
        estimate_basis: estimate.map_or("", |estimate| estimate.basis.name()).to_owned(),
        ..v1::Queue::default()
    }
}

fn holder(whose: &Whose, seen: &LeaseSeen, now: Moment) -> v1::Holder {
    v1::Holder {
        pid: whose.process.map_or(0, |process| process.pid),
        uid: whose.user,
        name: whose.name.clone(),
        label: whose.label.clone(),
        used_mib: (!seen.used.is_empty()).then(|| seen.used.iter().copied().sum::<Mib>().mib()),
        phase_ms: now.since(seen.since).millis(),
        ram_used_mib: seen.ram_used.map(Mib::mib),
    }
}

fn notice(seen: &NoticeSeen, now: Moment) -> v1::Notice {
    v1::Notice {
        id: seen.id.clone(),
        preemptor: seen.preemptor.clone().unwrap_or_default(),
        preemptor_class: seen.class.map_or("", memboss_core::Class::name).to_owned(),
        reason: seen.reason.to_owned(),
        needed_mib: seen.needed.iter().map(|needed| needed.mib()).collect(),
        needed_ram_mib: seen.needed_ram.mib(),
        remaining_ms: seen.deadline.since(now).millis(),
    }
}
