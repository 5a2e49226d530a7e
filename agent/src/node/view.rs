//! What others are shown of a node: plain data, made anew when something has changed. Nothing here changes anything.

use std::collections::{BTreeMap, HashMap};

use memboss_core::{Class, Closed, Estimate, GpuUuid, LeaseId, Mib, Moment, Phase, Pressure, Sign, Token};

use super::relief::{Cleaned, NODE_PRESSURE};
use super::{Counters, Driver, Hold, Node, PodFact};
use crate::health::Health;
use crate::order::{Answered, State, Subject};
use crate::probes::processes::{PodUid, Process};
use crate::store::hex;

/// A node as it stands.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its name.
    pub node: String,
    /// Its boot.
    pub boot_id: String,
    /// The agent's start, counted.
    pub agent_epoch: u32,
    /// Why nothing is granted, if so.
    pub hold: Option<String>,
    /// GPU by GPU, in NVML's order.
    pub gpus: Vec<GpuSeen>,
    /// Whether the driver has not told yet which there are.
    pub gpus_unread: bool,
    /// Host memory.
    pub ram: RamSeen,
    /// Every lease that is known here.
    pub leases: BTreeMap<LeaseId, LeaseSeen>,
    /// Whether the API server has told which pods are here: before that nobody knows whose a lease in code is.
    pub pods_known: bool,
    /// Counted since the start.
    pub counters: Counters,
    /// The digest of the ledger.
    pub digest: String,
    /// Whether the API server should be asked which installation it is.
    pub wants_incarnation: bool,
}

impl Snapshot {
    /// Whether people would see nothing new in the other one.
    #[must_use]
    pub fn shows_the_same(&self, other: &Self) -> bool {
        (&self.hold, &self.gpus, self.gpus_unread, &self.ram, &self.leases)
            == (&other.hold, &other.gpus, other.gpus_unread, &other.ram, &other.leases)
    }

    /// Whether the node has been looked at; before that there is nothing to show.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.node.is_empty()
    }
}

/// A GPU as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSeen {
    /// Its UUID.
    pub uuid: GpuUuid,
    /// NVML's index.
    pub index: u32,
    /// Its model.
    pub model: String,
    /// All of its memory.
    pub total: Mib,
    /// What the driver keeps.
    pub reserved: Mib,
    /// What can be leased when nothing else uses it.
    pub leasable: Mib,
    /// What is charged.
    pub leased: Mib,
    /// What no lease explains.
    pub foreign: Mib,
    /// What is in use.
    pub used: Mib,
    /// What is free.
    pub free: Mib,
    /// How it is.
    pub health: Health,
    /// Why, unless it is well.
    pub health_reason: String,
}

/// Host memory as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RamSeen {
    /// All there is.
    pub total: Mib,
    /// What is available.
    pub available: Mib,
    /// What can be leased.
    pub leasable: Mib,
    /// What is charged.
    pub leased: Mib,
    /// How hard pressed it is.
    pub pressure: Pressure,
    /// What that rests on.
    pub sign: Option<Sign>,
    /// Why nothing of it is granted, if so.
    pub closed: Option<Closed>,
    /// What was cleaned last.
    pub cleaned: Option<Cleaned>,
    /// How often cache was dropped, and how much in all.
    pub cleanings: (u64, Mib),
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSeen {
    /// The placement that this answers.
    pub answered: Answered,
    /// Who holds it; not known of one that is refused or over.
    pub subject: Option<Subject>,
    /// Its class; not known of one that is refused or over.
    pub class: Option<Class>,
    /// Its state.
    pub state: State,
    /// Slot by slot: GPU, index, model, amount.
    pub gpus: Vec<(GpuUuid, u32, String, Mib)>,
    /// Host RAM.
    pub ram: Mib,
    /// The proof of its grant.
    pub token: Token,
    /// What its holder was told.
    pub notice: Option<NoticeSeen>,
    /// The name of the reason for the state.
    pub reason: Option<String>,
    /// The reason in a sentence.
    pub message: Option<String>,
    /// What its holder uses, slot by slot.
    pub used: Vec<Mib>,
    /// What its holder has of host RAM, if it leases some.
    pub ram_used: Option<Mib>,
    /// It uses more than it holds.
    pub over: bool,
    /// Its object is being deleted.
    pub deleting: bool,
    /// Its place in the queue, from 1, while it waits there.
    pub position: Option<usize>,
    /// When it will probably be granted, while it waits.
    pub estimate: Option<Estimate>,
    /// Since when it is in its state.
    pub since: Moment,
    /// Whose it is, for people to see; not known of one that is refused or over.
    pub whose: Option<Whose>,
}

impl LeaseSeen {
    /// One of which no more is known than its state.
    pub(crate) fn bare(answered: Answered, state: State) -> Self {
        Self {
            answered,
            subject: None,
            class: None,
            state,
            gpus: Vec::new(),
            ram: Mib::ZERO,
            token: Token::default(),
            notice: None,
            reason: None,
            message: None,
            used: Vec::new(),
            ram_used: None,
            over: false,
            deleting: false,
            position: None,
            estimate: None,
            since: Moment::default(),
            whose: None,
        }
    }

    /// Whose it is, if a process leases it in code.
    #[must_use]
    pub fn in_code(&self) -> Option<&Whose> {
        self.whose.as_ref().filter(|whose| whose.process.is_some())
    }
}

/// Whose a lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The process of a lease in code; nothing for a pod's.
    pub process: Option<Process>,
    /// The user of that process.
    pub user: u32,
    /// The pod to which it belongs, if it does.
    pub pod: Option<PodUid>,
    /// That pod by its name, where the API server has told of it.
    pub named: Option<Subject>,
    /// The lease of that pod that it is a part of.
    pub part_of: Option<LeaseId>,
    /// What the process runs, or the pod's namespace/name.
    pub name: String,
    /// What its holder wishes to be shown.
    pub label: String,
}

/// A notice as its holder is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeSeen {
    /// Names it.
    pub id: String,
    /// For whom.
    pub preemptor: Option<String>,
    /// The preemptor's class.
    pub class: Option<Class>,
    /// Why.
    pub reason: &'static str,
    /// What must become free on each slot.
    pub needed: Vec<Mib>,
    /// What must become free of its RAM.
    pub needed_ram: Mib,
    /// When the next rung is due.
    pub deadline: Moment,
}

/// What names a notice: the grant and its deadline, which stay while parts of it are met.
pub(crate) fn notice_id(view: &memboss_core::LeaseView) -> Option<String> {
    match &view.phase {
        Phase::Revoking { notice, .. } => {
            Some(format!("{}.{}-{}", view.token.epoch, view.token.sequence, notice.deadline.millis()))
        }
        _ => None,
    }
}

impl Node {
    /// Everybody's place in the queue, from 1; of a part, in its pod's own.
    #[must_use]
    pub fn places(&self) -> HashMap<LeaseId, usize> {
        let parts = self.parts.values().flat_map(super::clients::Part::places);
        self.engine.queue().into_iter().zip(1..).chain(parts).collect()
    }

    /// The node as it stands; `digest` is the ledger's.
    #[must_use]
    pub fn snapshot(&self, digest: [u8; 8], places: &HashMap<LeaseId, usize>) -> Snapshot {
        Snapshot {
            node: self.settings.name.to_string(),
            boot_id: self.settings.boot_id.clone(),
            agent_epoch: self.agent_epoch,
            hold: self.hold_reason(),
            gpus: self.gpus_seen(),
            gpus_unread: self.driver == Driver::Unread,
            ram: self.ram_seen(),
            leases: self.leases_seen(places),
            pods_known: self.pods_known,
            counters: self.counters.clone(),
            digest: hex(&digest),
            wants_incarnation: self.wants_incarnation,
        }
    }

    fn hold_reason(&self) -> Option<String> {
        match &self.hold {
            Hold::Open if self.plugin_is_away() => Some("the device plugin is away".to_owned()),
            Hold::Open if self.drains.is_node_closed() => Some("draining".to_owned()),
            Hold::Open => None,
            Hold::Rebuilding(why) => Some(format!("rebuilding: {why}")),
            Hold::Quarantine => Some("quarantine: the ledger of this boot is lost and is being rebuilt".to_owned()),
        }
    }

    fn gpus_seen(&self) -> Vec<GpuSeen> {
        let views = self.engine.gpus();
        let mut seen: Vec<GpuSeen> = self
            .gpus
            .iter()
            .map(|(uuid, gpu)| {
                let view = views.iter().find(|view| view.uuid == *uuid);
                GpuSeen {
                    uuid: uuid.clone(),
                    index: gpu.index,
                    model: gpu.model.as_str().to_owned(),
                    total: gpu.total,
                    reserved: gpu.reserved,
                    leasable: self.settings.margin.leasable(gpu.total, gpu.reserved),
                    leased: view.map(|view| view.leased).unwrap_or_default(),
                    foreign: gpu.usage.foreign,
                    used: gpu.usage.used,
                    free: view.map(|view| view.free).unwrap_or_default(),
                    health: gpu.health.health(),
                    health_reason: gpu.health.reason().to_owned(),
                }
            })
            .collect();
        seen.sort_by_key(|gpu| gpu.index);
        seen
    }

    fn ram_seen(&self) -> RamSeen {
        let (leasable, leased) = self.engine.ram(&self.settings.name).unwrap_or_default();
        let (pressure, sign) = self.relief.level();
        RamSeen {
            total: self.ram.total,
            available: self.ram.available,
            leasable,
            leased,
            pressure,
            sign,
            closed: self.ram_closed(),
            cleaned: self.relief.last.clone(),
            cleanings: (self.relief.cleanings, self.relief.dropped),
        }
    }

    fn leases_seen(&self, places: &HashMap<LeaseId, usize>) -> BTreeMap<LeaseId, LeaseSeen> {
        let mut leases = BTreeMap::new();
        for (id, refused) in &self.refused {
            let why = (refused.why.name().to_owned(), refused.why.to_string());
            leases.insert(id.clone(), closed(&refused.answered, State::Refused, why));
        }
        for (id, ended) in self.ended.iter() {
            let why = (ended.reason.name().to_owned(), end_message(ended.reason.name()));
            let mut seen = closed(&ended.answered, State::Ended, why);
            seen.token = ended.token;
            seen.gpus = ended.gpus.iter().map(|share| self.share_seen(&share.uuid, share.memory)).collect();
            leases.insert(id.clone(), seen);
        }
        for (id, holder) in self.holders.iter() {
            if let Some(view) = self.engine.lease(id) {
                leases.insert(id.clone(), self.held_seen(holder, &view, places.get(id).copied()));
            }
        }
        for (id, client) in self.clients.known.iter() {
            if let Some(view) = self.lease_seen(id) {
                leases.insert(id.clone(), self.client_seen(client, &view, places.get(id).copied()));
            }
        }
        for (id, seen) in &mut leases {
            seen.deleting = self.orders.get(id).is_some_and(|order| order.deleting);
        }
        leases
    }

    fn share_seen(&self, uuid: &GpuUuid, memory: Mib) -> (GpuUuid, u32, String, Mib) {
        let gpu = self.gpus.get(uuid);
        (uuid.clone(), gpu.map_or(0, |gpu| gpu.index), gpu.map(|gpu| gpu.model.to_string()).unwrap_or_default(), memory)
    }

    /// A lease in code: nobody placed it.
    fn client_seen(
        &self,
        client: &super::clients::Client,
        view: &memboss_core::LeaseView,
        place: Option<usize>,
    ) -> LeaseSeen {
        let caller = &client.caller;
        let whose = Whose {
            process: Some(caller.process),
            user: caller.user,
            pod: caller.pod.clone(),
            named: caller.pod.as_ref().and_then(|uid| self.pods.get(uid)).map(PodFact::subject),
            part_of: client.part_of.clone(),
            name: caller.command.clone(),
            label: client.label.clone(),
        };
        LeaseSeen { whose: Some(whose), ..self.seen(Answered { object: String::new(), attempt: 0 }, view, place) }
    }

    fn held_seen(
        &self,
        holder: &crate::store::Holder,
        view: &memboss_core::LeaseView,
        place: Option<usize>,
    ) -> LeaseSeen {
        let subject = &holder.subject;
        let whose = Whose {
            process: None,
            user: 0,
            pod: Some(subject.pod.clone()),
            named: Some(subject.clone()),
            part_of: None,
            name: format!("{}/{}", subject.namespace, subject.name),
            label: String::new(),
        };
        let seen = self.seen(holder.answered.clone(), view, place);
        LeaseSeen { subject: Some(subject.clone()), whose: Some(whose), ..seen }
    }

    fn seen(&self, answered: Answered, view: &memboss_core::LeaseView, place: Option<usize>) -> LeaseSeen {
        let claimed = view.placement.is_some();
        let (state, reason) = match &view.phase {
            Phase::Waiting if claimed => (State::Claimed, None),
            Phase::Waiting => (State::Waiting, None),
            Phase::Reserved { .. } => (State::Reserved, None),
            Phase::Active { .. } => (State::Active, None),
            Phase::Revoking { notice, .. } => (State::Revoking, Some(notice.reason.name())),
            Phase::Stopping { reason } => (State::Stopping, Some(reason.name())),
            Phase::Ended(reason) => (State::Ended, Some(reason.name())),
        };
        let shares = view.placement.as_ref().map(|placement| placement.gpus.as_slice()).unwrap_or_default();
        let lost = shares
            .iter()
            .find(|share| self.gpus.get(&share.uuid).is_some_and(|gpu| gpu.health.health() == Health::Lost));
        let over = self.over_since.get(&view.id);
        let (reason, message) = match (reason, &view.why, lost) {
            (Some(NODE_PRESSURE), ..) => {
                (Some(NODE_PRESSURE.to_owned()), Some(pressure_message(over.map(|(_, what)| what))))
            }
            (Some(reason), ..) => (Some(reason.to_owned()), None),
            (None, Some(why), _) => (Some(why.name().to_owned()), Some(why.to_string())),
            (None, None, Some(share)) => (Some("GpuLost".to_owned()), Some(format!("its GPU {} is lost", share.uuid))),
            (None, None, None) => (None, over.map(|(_, what)| what.clone())),
        };
        LeaseSeen {
            class: Some(view.class),
            gpus: shares.iter().map(|share| self.share_seen(&share.uuid, share.memory)).collect(),
            ram: view.placement.as_ref().map(|placement| placement.ram).unwrap_or_default(),
            token: view.token,
            notice: notice_seen(view),
            reason,
            message,
            used: if view.phase.is_charged() { self.used_by(&view.id) } else { Vec::new() },
            ram_used: self.ram_used.get(&view.id).copied(),
            over: over.is_some(),
            position: place,
            estimate: self.engine_of(&view.id).estimate(view, place, self.now),
            since: self.phases.get(&view.id).map(|(_, since)| *since).unwrap_or_default(),
            ..LeaseSeen::bare(answered, state)
        }
    }
}

fn notice_seen(view: &memboss_core::LeaseView) -> Option<NoticeSeen> {
    let Phase::Revoking { notice, .. } = &view.phase else { return None };
    Some(NoticeSeen {
        id: notice_id(view)?,
        preemptor: notice.preemptor.as_ref().map(ToString::to_string),
        class: notice.class,
        reason: notice.reason.name(),
        needed: notice.needed.clone(),
        needed_ram: notice.needed_ram,
        deadline: notice.deadline,
    })
}

fn closed(answered: &Answered, state: State, (reason, message): (String, String)) -> LeaseSeen {
    LeaseSeen { reason: Some(reason), message: Some(message), ..LeaseSeen::bare(answered.clone(), state) }
}

/// Why a holder has to go for its node's sake.
fn pressure_message(over: Option<&String>) -> String {
    let over = over.map(|what| format!(", and {what}")).unwrap_or_default();
    format!("the RAM of its node is under pressure{over}")
}

fn end_message(reason: &str) -> String {
    format!("ended ({reason}): its memory was seen free")
}
