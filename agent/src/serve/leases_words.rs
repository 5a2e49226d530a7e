//! What a process that leases in code asks, read into the words of the rules, and what it is told, in the words of the protocol.

use memboss_agent_api::v1;
use memboss_core::{
    Class, Demand, EndReason, Flexibility, Forecast, GpuSelector, GpuShare, GpuUuid, Layout, LeaseId, LeaseView, Mib,
    Moment, Percent, Phase, Placement, Request as Wanted, Slot, Span,
};
use tonic::Status;

use super::MOST_PARTS;
use super::message::estimated;
use crate::node::clients::{Told, Wish};
use crate::node::view::{Snapshot, notice_id};
use crate::probes::clock;

/// No model's name is longer.
const LONGEST_MODEL: usize = 128;

fn bad(what: impl Into<String>) -> Status {
    Status::invalid_argument(what)
}

/// A request in the words of the rules.
pub(super) fn wish(asked: v1::AcquireRequest) -> Result<Wish, Status> {
    check_size(&asked)?;
    let class = match asked.class.as_str() {
        "" => Class::Normal,
        name => name.parse::<Class>().map_err(|unknown| bad(unknown.to_string()))?,
    };
    let slots = asked.slots.iter().map(slot).collect::<Result<_, _>>()?;
    let demand = Demand { slots, ram: Mib::from_mib(asked.ram_mib) };
    let span = |millis: u64| (millis > 0).then(|| Span::from_millis(millis));
    let uuids = asked.uuids.into_iter().map(|uuid| GpuUuid::new(uuid).map_err(|name| bad(name.to_string())));
    // Its name and its place in the queue are given by the node.
    let mut request =
        Wanted::new(LeaseId::new("new").map_err(|name| bad(name.to_string()))?, class, demand, Moment::default());
    request.gpus = GpuSelector { models: asked.models, uuids: uuids.collect::<Result<_, _>>()? };
    request.layout = if asked.spread { Layout::Spread } else { Layout::Pack };
    request.flexibility = Flexibility { shrinks: asked.can_shrink, offloads: asked.can_offload };
    request.notice = span(asked.notice_ms);
    request.protection = span(asked.protection_ms);
    Ok(Wish {
        name: asked.request_id,
        request,
        timeout: span(asked.timeout_ms),
        no_wait: asked.no_wait,
        ttl: span(asked.ttl_ms),
        label: asked.label.chars().filter(|c| !c.is_control()).take(128).collect(),
    })
}

/// What is remembered of a request stays small, however many there are.
fn check_size(asked: &v1::AcquireRequest) -> Result<(), Status> {
    for (what, parts) in [("slots", asked.slots.len()), ("models", asked.models.len()), ("uuids", asked.uuids.len())] {
        if parts > MOST_PARTS {
            return Err(bad(format!("{what} has {parts} entries: {MOST_PARTS} are the most")));
        }
    }
    match asked.models.iter().find(|model| model.is_empty() || model.len() > LONGEST_MODEL) {
        Some(model) => {
            Err(bad(format!("a model is 1 to {LONGEST_MODEL} characters long, such as H100, not {}", model.len())))
        }
        None => Ok(()),
    }
}

fn slot(asked: &v1::SlotRequest) -> Result<Slot, Status> {
    match (asked.memory_mib, asked.percent) {
        (0, 0) => Err(bad("a slot asks for nothing: give it memory_mib or percent")),
        (memory, 0) => Ok(Slot::fixed(Mib::from_mib(memory))),
        (0, percent) => {
            let share = Percent::new(u64::from(percent)).map_err(|wrong| bad(wrong.to_string()))?;
            Ok(Slot { fixed: Mib::ZERO, share: Some(share) })
        }
        _ => Err(bad("a slot asks for memory_mib or for percent, not for both")),
    }
}

/// What a listener is told, in the words of the protocol.
pub(super) fn event(told: &Told, secret: String) -> v1::LeaseEvent {
    let queue = (told.ended.is_none() && told.lease.phase == Phase::Waiting).then(|| v1::Queue {
        position: told.position.and_then(|at| u32::try_from(at).ok()).unwrap_or_default(),
        reason: told.lease.why.as_ref().map_or("", memboss_core::Waiting::name).to_owned(),
        message: told.lease.why.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..estimated(told.estimate, clock::now())
    });
    let lease = v1::LeaseView { queue: queue.clone(), ..lease(&told.lease, told.ended) };
    v1::LeaseEvent { lease: Some(lease), queue, secret }
}

fn lease(view: &LeaseView, ended: Option<EndReason>) -> v1::LeaseView {
    let phase = match (&view.phase, ended) {
        (_, Some(_)) | (Phase::Ended(_), _) => v1::Phase::Ended,
        (Phase::Waiting, _) => v1::Phase::Waiting,
        (Phase::Reserved { .. }, _) => v1::Phase::Reserved,
        (Phase::Active { .. }, _) => v1::Phase::Active,
        (Phase::Revoking { .. }, _) => v1::Phase::Revoking,
        (Phase::Stopping { .. }, _) => v1::Phase::Stopping,
    };
    let reason = match (&view.phase, ended) {
        (_, Some(reason)) => reason.name(),
        (Phase::Stopping { reason } | Phase::Ended(reason), _) => reason.name(),
        (Phase::Revoking { notice, .. }, _) => notice.reason.name(),
        _ => "",
    };
    let gpus = view.placement.iter().flat_map(|placement| &placement.gpus).map(share);
    v1::LeaseView {
        lease: view.id.to_string(),
        phase: phase.into(),
        class: view.class.name().to_owned(),
        gpus: gpus.collect(),
        ram_mib: view.placement.as_ref().map_or(0, |placement| placement.ram.mib()),
        token: Some(v1::Token { epoch: view.token.epoch, sequence: view.token.sequence }),
        notice: notice(view),
        reason: reason.to_owned(),
        ..v1::LeaseView::default()
    }
}

fn share(share: &GpuShare) -> v1::GpuShare {
    v1::GpuShare { uuid: share.uuid.to_string(), index: 0, memory_mib: share.memory.mib() }
}

fn notice(view: &LeaseView) -> Option<v1::Notice> {
    let Phase::Revoking { notice, .. } = &view.phase else { return None };
    Some(v1::Notice {
        id: notice_id(view)?,
        preemptor: notice.preemptor.as_ref().map(ToString::to_string).unwrap_or_default(),
        preemptor_class: notice.class.map_or("", Class::name).to_owned(),
        reason: notice.reason.name().to_owned(),
        needed_mib: notice.needed.iter().map(|needed| needed.mib()).collect(),
        needed_ram_mib: notice.needed_ram.mib(),
        remaining_ms: notice.deadline.since(clock::now()).millis(),
    })
}

pub(super) fn outlook(forecast: &Forecast) -> v1::DryRunResponse {
    let placed = |placement: &Placement| placement.gpus.iter().map(share).collect();
    match forecast {
        Forecast::Grant(placement) => v1::DryRunResponse {
            outlook: v1::Outlook::Now.into(),
            gpus: placed(placement),
            ..v1::DryRunResponse::default()
        },
        Forecast::Preempt { placement, victims } => v1::DryRunResponse {
            outlook: v1::Outlook::AfterPreemption.into(),
            gpus: placed(placement),
            victims: victims.iter().map(ToString::to_string).collect(),
            ..v1::DryRunResponse::default()
        },
        Forecast::Wait { ahead, satisfiable, why, .. } => {
            let outlook = if *satisfiable { v1::Outlook::Waits } else { v1::Outlook::Never };
            let (reason, message) = (
                why.name().to_owned(),
                if *ahead > 0 { format!("{why}; {ahead} wait before it") } else { why.to_string() },
            );
            v1::DryRunResponse { outlook: outlook.into(), reason, message, ..v1::DryRunResponse::default() }
        }
    }
}

/// Adds the numbers that GPUs have now.
pub(super) fn number(shares: &mut [v1::GpuShare], snapshot: &Snapshot) {
    for share in shares {
        let gpu = snapshot.gpus.iter().find(|gpu| gpu.uuid.as_str() == share.uuid);
        share.index = gpu.map_or(0, |gpu| gpu.index);
    }
}
