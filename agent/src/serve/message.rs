//! What is published, in the words of the protocol.

use memboss_agent_api::v1;
use memboss_core::{LeaseId, Moment};

use crate::health::Health;
use crate::node::view::{GpuSeen, LeaseSeen, NoticeSeen, RamSeen, Snapshot};
use crate::order::State;

pub(super) fn gpu_list(snapshot: &Snapshot) -> v1::GpuList {
    v1::GpuList { gpus: snapshot.gpus.iter().map(gpu).collect(), hold: snapshot.hold.clone().unwrap_or_default() }
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

pub(super) const fn ram(seen: &RamSeen) -> v1::Ram {
    v1::Ram {
        total_mib: seen.total.mib(),
        available_mib: seen.available.mib(),
        leasable_mib: seen.leasable.mib(),
        leased_mib: seen.leased.mib(),
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
    let share = |(uuid, index, _, memory): &(memboss_core::GpuUuid, u32, String, memboss_core::Mib)| v1::GpuShare {
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
    }
}

fn notice(seen: &NoticeSeen, now: Moment) -> v1::Notice {
    v1::Notice {
        id: seen.id.clone(),
        preemptor: seen.preemptor.clone().unwrap_or_default(),
        preemptor_class: seen.class.map_or("", memboss_core::Class::name).to_owned(),
        reason: seen.reason.to_owned(),
        needed_mib: seen.needed.iter().map(|needed| needed.mib()).collect(),
        remaining_ms: seen.deadline.since(now).millis(),
    }
}
