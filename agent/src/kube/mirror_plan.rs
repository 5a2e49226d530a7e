//! Leases in code as objects, for people to see and for the operator to count: which are to be shown, and how. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use memboss_core::{LeaseId, Moment, Span};
use memboss_crds as crds;
use memboss_crds::{IN_CODE_LABEL, LeaseKind, RAM_MARK, VramLease, VramLeaseSpec, VramLeaseStatus, quantity};
use sha2::{Digest as _, Sha256};

use super::lease::{Told, allocation};
use crate::node::view::{LeaseSeen, Whose};
use crate::order::{State, Subject};
use crate::store::hex;

/// A lease that ends sooner is not shown: most of them are over by the time that anybody could look.
const SHORT: Span = Span::from_secs(5);

/// The reason's name on such an object.
const WHY: &str = "InCode";

/// An object that is there: its namespace, and its name among both kinds.
pub(super) type Key = (String, String);

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// The object is to be made; its status comes with the next round.
    Make(Box<VramLease>),
    /// Its status is to say this.
    Say(Key, Box<VramLeaseStatus>),
    /// Its lease is over.
    Remove(Key),
}

/// What is to be written, given the leases, what is there (with what was last said there), and when each lease was first seen to hold memory.
pub(super) fn plan(
    leases: &BTreeMap<LeaseId, LeaseSeen>,
    there: &BTreeMap<Key, Option<VramLeaseStatus>>,
    held_since: &BTreeMap<LeaseId, Moment>,
    told: &dyn Fn(&LeaseSeen) -> Option<Told>,
    node: &str,
    (now, time): (Moment, Timestamp),
) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut wanted = BTreeSet::new();
    for (id, seen) in leases {
        let Some((whose, pod)) = holder(seen) else { continue };
        let key = key(id, seen, pod);
        wanted.insert(key.clone());
        match there.get(&key) {
            None => {
                let held = held_since.get(id).map_or(Span::ZERO, |since| now.since(*since));
                if held >= SHORT {
                    acts.push(Act::Make(Box::new(object(&key, seen, whose, pod))));
                }
            }
            Some(said) => {
                let active = said.as_ref().and_then(|said| said.active_at.clone());
                let since = SignedDuration::from_millis(i64::try_from(now.since(seen.since).millis()).unwrap_or(0));
                let active = active.unwrap_or_else(|| Time(time.checked_sub(since).unwrap_or(time)));
                let status = status(seen, whose, told(seen).as_ref(), node, active);
                if said.as_ref() != Some(&status) {
                    acts.push(Act::Say(key, Box::new(status)));
                }
            }
        }
    }
    acts.extend(there.keys().filter(|key| !wanted.contains(key)).cloned().map(Act::Remove));
    acts
}

/// Whose a lease is that is shown: one in code, of a pod that the API server has told of, which holds memory.
pub(super) fn holder(seen: &LeaseSeen) -> Option<(&Whose, &Subject)> {
    let whose = seen.in_code().filter(|_| seen.state.is_charged())?;
    Some((whose, whose.named.as_ref()?))
}

/// The same for the same lease, whichever agent asks.
fn key(id: &LeaseId, seen: &LeaseSeen, pod: &Subject) -> Key {
    let digest = hex(&Sha256::digest(id.as_str().as_bytes()));
    let digest = digest.get(..8).unwrap_or_default();
    let most = 253 - digest.len() - 1;
    let name = pod.name.get(..most.min(pod.name.len())).unwrap_or(&pod.name);
    let mark = if seen.gpus.is_empty() { RAM_MARK } else { "" };
    (pod.namespace.clone(), format!("{mark}{name}-{digest}"))
}

fn object((namespace, name): &Key, seen: &LeaseSeen, whose: &Whose, pod: &Subject) -> VramLease {
    let slots: Vec<_> = seen.gpus.iter().map(|(.., memory)| quantity(*memory)).collect();
    let requested = match slots.as_slice() {
        [] => quantity(seen.ram),
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|other| other == first) => {
            format!("{}x{first}", slots.len())
        }
        all => all.join("+"),
    };
    let spec = VramLeaseSpec {
        subject: crds::Subject { pod_name: pod.name.clone(), pod_uid: pod.pod.0.clone(), owner: None },
        class: seen.class.map(Into::into).unwrap_or_default(),
        slots: slots.into_iter().map(|memory| crds::Slot { memory: Some(memory), percent: None }).collect(),
        requested,
        ram: (!seen.ram.is_zero()).then(|| quantity(seen.ram)),
        ..VramLeaseSpec::default()
    };
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.name.clone(),
        uid: pod.pod.0.clone(),
        ..OwnerReference::default()
    };
    let of = if whose.part_of.is_some() { "part" } else { "own" };
    let mut lease = VramLease::new(name, spec);
    lease.metadata = ObjectMeta {
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        labels: Some([(IN_CODE_LABEL.to_owned(), of.to_owned())].into()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    lease
}

fn status(seen: &LeaseSeen, whose: &Whose, told: Option<&Told>, node: &str, active: Time) -> VramLeaseStatus {
    // What it uses changes all the time, and is not told here.
    let allocation = crds::Allocation { used: None, ..allocation(seen, told) };
    let gpus = allocation.gpus.iter();
    let gpus = gpus.map(|gpu| crds::GpuAmount { uuid: gpu.uuid.clone(), memory: gpu.memory.clone() }).collect();
    let part = whose.part_of.as_ref().map(|whole| format!(" out of {whole}")).unwrap_or_default();
    let label = if whose.label.is_empty() { String::new() } else { format!(": {}", whose.label) };
    let why = seen.reason.clone().unwrap_or_else(|| WHY.to_owned());
    VramLeaseStatus {
        phase: Some(phase(seen.state)),
        why: Some(why),
        message: Some(format!("leased in code{part} by {}{label}", whose.name)),
        placement: Some(crds::Placement {
            node: node.to_owned(),
            gpus,
            ram: allocation.ram.clone(),
            ..crds::Placement::default()
        }),
        allocation: Some(allocation),
        active_at: Some(active),
        ..VramLeaseStatus::default()
    }
}

const fn phase(state: State) -> crds::LeasePhase {
    match state {
        State::Refused | State::Waiting | State::Claimed => crds::LeasePhase::Waiting,
        State::Reserved => crds::LeasePhase::Reserved,
        State::Active => crds::LeasePhase::Active,
        State::Revoking => crds::LeasePhase::Revoking,
        State::Stopping => crds::LeasePhase::Stopping,
        State::Ended => crds::LeasePhase::Ended,
    }
}

/// The kind of an object that is there, and its name.
pub(super) fn named(key: &Key) -> (LeaseKind, &str) {
    crds::kind_of(&key.1)
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
