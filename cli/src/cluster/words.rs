//! Objects of the API in the words of an agent's answer, and in sentences. Pure: it may ask nobody.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use memboss_agent_api::v1::{
    Gpu, GpuList, GpuShare, Health, Holder, LeaseView, Notice, Phase, Queue, Ram, StatusResponse, Token,
};
use memboss_crds::{self as crds, LeasePhase, MemoryNode, VramLease, VramLeaseStatus, parse_mib};

use super::{Picture, Placed};
use crate::show::time;

/// All of it at that time, in milliseconds since 1970: those who wait after those who hold, in their order, and what is over last.
pub(super) fn picture<'a>(
    nodes: impl IntoIterator<Item = &'a MemoryNode>,
    leases: impl IntoIterator<Item = &'a VramLease>,
    now: i64,
) -> Picture {
    let mut leases: Vec<Placed> = leases.into_iter().map(|lease| placed(lease, now)).collect();
    leases.sort_by_cached_key(|placed| {
        let place = placed.view.queue.as_ref().map(|queue| queue.position).filter(|place| *place > 0);
        let rank = match placed.view.phase() {
            Phase::Ended => 2,
            Phase::Waiting => 1,
            _ => 0,
        };
        (rank, place.unwrap_or(u32::MAX), placed.view.lease.clone())
    });
    let mut there: BTreeMap<&str, Vec<LeaseView>> = BTreeMap::new();
    for placed in &leases {
        there.entry(&placed.node).or_default().push(placed.view.clone());
    }
    let mut machines: Vec<StatusResponse> = nodes.into_iter().map(node).collect();
    machines.sort_by(|one, other| one.node.cmp(&other.node));
    for machine in &mut machines {
        machine.leases = there.get(machine.node.as_str()).cloned().unwrap_or_default();
    }
    Picture { machines, leases }
}

/// The leases that a name may stand for: its own, else its pod's, with the namespace before it or without.
pub(super) fn find(leases: Vec<VramLease>, named: &str) -> Vec<VramLease> {
    let is = |lease: &VramLease, name: &str| {
        name == named || named.split_once('/') == Some((lease.namespace().unwrap_or_default().as_str(), name))
    };
    // A pod may have had several: the one that is not over.
    let of_pod = |lease: &VramLease| is(lease, &lease.spec.subject.pod_name) && phase(lease) != Some(LeasePhase::Ended);
    let (found, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| is(lease, &lease.name_any()));
    if found.is_empty() { others.into_iter().filter(of_pod).collect() } else { found }
}

/// Its name, as it is listed.
pub(super) fn name(lease: &VramLease) -> String {
    format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any())
}

pub(super) fn phase(lease: &VramLease) -> Option<LeasePhase> {
    lease.status.as_ref().and_then(|status| status.phase)
}

/// Why it stands where it stands.
pub(super) fn explained(lease: &VramLease) -> Vec<String> {
    let status = lease.status.clone().unwrap_or_default();
    let class = memboss_core::Class::from(lease.spec.class);
    let state = status.phase.map_or("not looked at yet".to_owned(), |phase| format!("{phase:?}"));
    let pod = &lease.spec.subject.pod_name;
    let mut lines =
        vec![format!("{} of pod {pod} asks for {} in class {class}: {state}", name(lease), lease.spec.requested)];
    if let Some(place) = status.queue.as_ref().and_then(|queue| queue.position) {
        lines.push(format!("place {place} in the queue"));
    }
    if let Some(placement) = &status.placement {
        lines.push(format!("placed on {}", placement.node));
        if !placement.victims.is_empty() {
            lines.push(format!("who gives way: {}", placement.victims.join(", ")));
        }
    }
    let (reason, message) = reason(&status);
    lines.extend((!reason.is_empty() || !message.is_empty()).then(|| format!("{reason}: {message}")));
    if let Some(notice) = status.allocation.as_ref().and_then(|allocation| allocation.notice.as_ref()) {
        let whom = notice.preemptor.as_ref().map(|whom| format!(" for {whom}")).unwrap_or_default();
        lines.push(format!("told to go{whom}: {}, {} s from notice to stop", notice.reason, notice.deadline_seconds));
    }
    lines.extend(status.end_reason.iter().map(|why| format!("ended: {why}")));
    let conditions = status.conditions.iter();
    lines.extend(conditions.map(|c| format!("condition {}={} {}: {}", c.type_, c.status, c.reason, c.message)));
    lines
}

/// What happened to it, and how long ago that was last so: it may be true no more.
pub(super) fn happened(event: &Event, now: i64) -> String {
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let told = event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref());
    let at = series.or(event.event_time.as_ref()).map(|time| time.0).or(told.map(|time| time.0));
    let ago = at.map(|at| format!(", {} ago", time(past(at.as_millisecond(), now)))).unwrap_or_default();
    format!("event {}{ago}: {}", said(&event.reason), said(&event.message))
}

/// The reason of a lease's state: its queue's, else its own.
fn reason(status: &VramLeaseStatus) -> (String, String) {
    let queue = status.queue.clone().unwrap_or_default();
    let or = |one: Option<String>, other: &Option<String>| one.or_else(|| other.clone()).unwrap_or_default();
    (or(queue.reason, &status.why), or(queue.message, &status.message))
}

/// An amount; what is no amount is none.
fn mib(text: &str) -> u64 {
    parse_mib(text).map(memboss_core::Mib::mib).unwrap_or_default()
}

fn node(node: &MemoryNode) -> StatusResponse {
    let status = node.status.clone().unwrap_or_default();
    let gpu = |gpu: &crds::Gpu| Gpu {
        uuid: gpu.uuid.clone(),
        index: gpu.index,
        model: gpu.model.clone(),
        total_mib: mib(&gpu.total),
        reserved_mib: mib(&gpu.reserved),
        leasable_mib: mib(&gpu.leasable),
        leased_mib: mib(&gpu.leased),
        foreign_mib: mib(&gpu.foreign),
        used_mib: mib(&gpu.used),
        health: match gpu.health {
            crds::Health::Healthy => Health::Healthy.into(),
            crds::Health::Degraded => Health::Degraded.into(),
            crds::Health::Lost => Health::Lost.into(),
        },
        health_reason: gpu.health_reason.clone().unwrap_or_default(),
    };
    let hold = status.hold.clone().unwrap_or_default();
    StatusResponse {
        node: node.name_any(),
        gpus: Some(GpuList { gpus: status.gpus.iter().map(gpu).collect(), hold, unread: status.gpus_unread }),
        ram: Some(Ram {
            total_mib: mib(&status.ram.total),
            available_mib: mib(&status.ram.available),
            leasable_mib: mib(&status.ram.leasable),
            leased_mib: mib(&status.ram.leased),
            pressure: status.ram.pressure.clone().unwrap_or_default(),
            pressure_sign: status.ram.pressure_sign.clone().unwrap_or_default(),
        }),
        leases: Vec::new(),
        boot_id: status.boot_id,
        agent_epoch: status.agent_epoch,
    }
}

/// A lease at that time, in milliseconds since 1970.
fn placed(lease: &VramLease, now: i64) -> Placed {
    let status = lease.status.clone().unwrap_or_default();
    let allocation = status.allocation.clone().unwrap_or_default();
    let phase = match status.phase.unwrap_or_default() {
        LeasePhase::Waiting | LeasePhase::Unsatisfiable => Phase::Waiting,
        LeasePhase::Reserved => Phase::Reserved,
        LeasePhase::Active => Phase::Active,
        LeasePhase::Revoking => Phase::Revoking,
        LeasePhase::Stopping => Phase::Stopping,
        LeasePhase::Ended => Phase::Ended,
    };
    let (reason, message) = reason(&status);
    let queue = (phase == Phase::Waiting).then(|| Queue {
        position: status.queue.as_ref().and_then(|queue| queue.position).unwrap_or_default(),
        reason: reason.clone(),
        message: message.clone(),
        ..Queue::default()
    });
    let gpus = allocation.gpus.iter().map(|gpu| GpuShare {
        uuid: gpu.uuid.clone(),
        index: gpu.index,
        memory_mib: mib(&gpu.memory),
    });
    let namespace = lease.namespace().unwrap_or_default();
    let used = allocation.used.as_deref().map(mib);
    // One figure is told: of its GPUs where it has some.
    let (used_mib, ram_used_mib) = if allocation.gpus.is_empty() { (None, used) } else { (used, None) };
    let view = LeaseView {
        lease: format!("{namespace}/{}", lease.name_any()),
        phase: phase.into(),
        class: memboss_core::Class::from(lease.spec.class).to_string(),
        gpus: gpus.collect(),
        ram_mib: allocation.ram.as_deref().map(mib).unwrap_or_default(),
        token: allocation.token.map(|token| Token { epoch: token.epoch, sequence: token.sequence }),
        notice: allocation.notice.as_ref().filter(|_| phase == Phase::Revoking).map(|told| notice(told, now)),
        reason: status.end_reason.clone().unwrap_or(reason),
        message,
        queue,
        holder: Some(Holder {
            name: format!("{namespace}/{}", lease.spec.subject.pod_name),
            used_mib,
            ram_used_mib,
            phase_ms: since(lease, &status, phase).map_or(0, |since| past(since, now)),
            ..Holder::default()
        }),
    };
    Placed { view, node: status.placement.map(|placement| placement.node).unwrap_or_default() }
}

fn notice(told: &crds::Notice, now: i64) -> Notice {
    let gone = told.sent_at.as_ref().map_or(0, |sent| past(millis(sent), now));
    Notice {
        id: String::new(),
        preemptor: told.preemptor.clone().unwrap_or_default(),
        preemptor_class: told.preemptor_class.map(|c| memboss_core::Class::from(c).to_string()).unwrap_or_default(),
        reason: told.reason.clone(),
        needed_mib: told.needed.iter().map(|needed| mib(needed)).collect(),
        needed_ram_mib: told.needed_ram.as_deref().map(mib).unwrap_or_default(),
        remaining_ms: told.deadline_seconds.saturating_mul(1000).saturating_sub(gone),
    }
}

/// Since when it is as it is, as far as that is told.
fn since(lease: &VramLease, status: &VramLeaseStatus, phase: Phase) -> Option<i64> {
    let told = match phase {
        Phase::Reserved => &status.reserved_at,
        Phase::Active => &status.active_at,
        Phase::Ended => &status.ended_at,
        Phase::Revoking => return status.allocation.as_ref()?.notice.as_ref()?.sent_at.as_ref().map(millis),
        Phase::Waiting => return lease.metadata.creation_timestamp.as_ref().map(millis),
        Phase::Stopping | Phase::Unspecified => return None,
    };
    told.as_ref().map(millis)
}

fn millis(time: &Time) -> i64 {
    time.0.as_millisecond()
}

fn past(since: i64, now: i64) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(name: &str, status: &serde_json::Value) -> VramLease {
        let spec = json!({
            "subject": { "podName": "pod-a", "podUid": "u" }, "class": "high", "requested": "8Gi", "slots": [{ "memory": "8Gi" }]
        });
        let meta = json!({ "name": name, "namespace": "team" });
        let object = json!({ "apiVersion": "memboss.dev/v1alpha1", "kind": "VramLease", "metadata": meta, "spec": spec, "status": status });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_lease_in_the_api_is_told_as_an_agent_would_tell_it() {
        let held = lease(
            "a",
            &json!({
                "phase": "Active", "activeAt": "1970-01-01T00:00:10Z",
                "placement": { "node": "node1", "epoch": { "incarnation": "i", "number": 1 }, "attempt": 1 },
                "allocation": { "state": "Active", "attempt": 1, "used": "7Gi",
                    "gpus": [{ "uuid": "GPU-0", "index": 1, "model": "L4", "memory": "8Gi" }], "token": { "epoch": 2, "sequence": 3 } }
            }),
        );
        let told = placed(&held, 25_000);
        assert_eq!(
            (told.node.as_str(), told.view.lease.as_str(), told.view.class.as_str()),
            ("node1", "team/a", "high")
        );
        assert_eq!((told.view.phase(), told.view.gpus[0].memory_mib), (Phase::Active, 8192));
        let holder = told.view.holder.unwrap();
        assert_eq!((holder.used_mib, holder.phase_ms), (Some(7168), 15_000));
    }

    #[test]
    fn an_event_is_told_with_its_age_as_far_as_that_is_known() {
        for (event, words) in [
            (json!({ "eventTime": "1970-01-01T00:00:05.000000Z" }), "event NoRoom, 20s ago: 8Gi are not free"),
            (
                json!({
                    "eventTime": "1970-01-01T00:00:05.000000Z",
                    "series": { "count": 2, "lastObservedTime": "1970-01-01T00:00:15.000000Z" },
                }),
                "event NoRoom, 10s ago: 8Gi are not free",
            ),
            (json!({ "lastTimestamp": "1970-01-01T00:00:24Z" }), "event NoRoom, 1s ago: 8Gi are not free"),
            (json!({}), "event NoRoom: 8Gi are not free"),
        ] {
            let mut whole =
                json!({ "metadata": {}, "involvedObject": {}, "reason": "NoRoom", "message": "8Gi are not free" });
            whole.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
            assert_eq!(happened(&serde_json::from_value(whole).unwrap(), 25_000), words);
        }
    }

    #[test]
    fn why_a_lease_waits_is_told_with_its_place_and_its_reason_and_it_is_found_by_its_pod() {
        let queue = json!({ "position": 2, "reason": "NoRoom", "message": "8Gi are not free" });
        let over = lease("old", &json!({ "phase": "Ended", "endReason": "Preempted" }));
        let leases = [over, lease("b", &json!({ "phase": "Waiting", "queue": queue }))];
        let found = find(leases.to_vec(), "team/pod-a");
        assert_eq!(found.len(), 1);
        let told = explained(&found[0]).join("\n");
        for words in ["team/b of pod pod-a asks for 8Gi in class high: Waiting", "place 2", "NoRoom: 8Gi are not free"]
        {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(find(leases.to_vec(), "other/pod-a").is_empty());
        assert_eq!(find(leases.to_vec(), "old")[0].name_any(), "old", "by its own name also when it is over");
        assert_eq!(placed(&found[0], 0).view.queue.unwrap().position, 2);
    }

    #[test]
    fn whoever_holds_stands_before_whoever_waits_and_each_node_has_its_own() {
        let waits =
            |name: &str, position: u32| lease(name, &json!({ "phase": "Waiting", "queue": { "position": position } }));
        let placed = json!({ "node": "node1", "epoch": { "incarnation": "i", "number": 1 }, "attempt": 1 });
        let holds = lease("z", &json!({ "phase": "Active", "placement": placed }));
        let over = lease("a", &json!({ "phase": "Ended" }));
        let nodes = ["node2", "node1"].map(|name| MemoryNode::new(name, crds::MemoryNodeSpec::default()));
        let told = picture(&nodes, &[over, waits("b", 2), waits("c", 1), holds], 0);
        let names: Vec<&str> = told.leases.iter().map(|placed| placed.view.lease.as_str()).collect();
        assert_eq!(names, ["team/z", "team/c", "team/b", "team/a"]);
        let there: Vec<_> = told.machines.iter().map(|machine| (machine.node.as_str(), machine.leases.len())).collect();
        assert_eq!(there, [("node1", 1), ("node2", 0)]);
    }
}
