//! How a node begins: with the ledger of this boot, after a reboot, or with its ledger lost. In the last two nothing is granted until the API server
//! has told which leases belong to pods that are bound here, and these have their memory again.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{EndReason, Engine, LeaseRecord, Moment, Phase, Placement, Policy, Refused, Slot, Token};

use super::admin::Drains;
use super::clients::{Client, Clients};
use super::facts::NOT_READ;
use super::orders::{answered, holder_of};
use super::relief::Relief;
use super::{Cluster, Counters, Driver, GpuState, Hold, Node, PodState, Settings, Severity};
use crate::attribution::GpuUse;
use crate::health::GpuHealth;
use crate::noted::Noted;
use crate::order::{Order, Recorded, State};
use crate::probes::meminfo::Ram;
use crate::store::{Ended, Ledger, Start};

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// What was in memory: the machine was booted.
    Boot,
    /// The ledger alone: memory is in use by whoever used it.
    Ledger,
}

/// What becomes of a lease that only its object remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Adoption {
    /// It had nothing.
    Nothing,
    /// It is charged again, in that phase.
    Charge(Phase),
    /// It is over.
    Over(EndReason),
}

/// What becomes of a lease, from what its object recorded and how its pod is (`None`: not bound here, or gone).
pub(super) fn plan_adoption(
    recorded: Option<&Recorded>,
    unwanted: Option<EndReason>,
    pod: Option<PodState>,
    lost: Lost,
    policy: &Policy,
    now: Moment,
) -> Adoption {
    let Some(recorded) = recorded.filter(|recorded| recorded.state.is_charged()) else { return Adoption::Nothing };
    let reserved = || Adoption::Charge(Phase::Reserved { until: now.after(policy.reservation) });
    let stopping = |reason| Adoption::Charge(Phase::Stopping { reason });
    let ending = match recorded.state {
        State::Stopping => Some(recorded.reason.unwrap_or(EndReason::Exited)),
        _ => unwanted,
    };
    match (lost, ending, recorded.state, pod) {
        (Lost::Boot, Some(reason), ..) => Adoption::Over(reason),
        (Lost::Ledger, Some(reason), ..) => stopping(reason),
        // Not bound yet, as far as can be told.
        (_, None, State::Reserved, None) => reserved(),
        (Lost::Boot, None, _, Some(PodState::Live)) => reserved(),
        (Lost::Boot, None, ..) => Adoption::Over(EndReason::Exited),
        // It may have begun since its object was last written.
        (Lost::Ledger, None, _, Some(PodState::Live | PodState::Leaving)) => {
            Adoption::Charge(Phase::Active { since: now })
        }
        (Lost::Ledger, None, _, _) => stopping(EndReason::Exited),
    }
}

impl Node {
    /// A node at the start of its agent.
    #[must_use]
    pub fn new(settings: Settings, start: Start, now: Moment) -> Self {
        let (ledger, hold) = match (start, settings.cluster) {
            (Start::Continue(ledger), _) => (*ledger, Hold::Open),
            (Start::First, Cluster::Kubernetes) => (Ledger::default(), Hold::Rebuilding("first start on this node")),
            (Start::First, Cluster::None) => (Ledger::default(), Hold::Open),
            (Start::AfterReboot(marker), cluster) => {
                let hold = match cluster {
                    Cluster::Kubernetes => Hold::Rebuilding("after reboot"),
                    Cluster::None => Hold::Open,
                };
                (Ledger { agent_epoch: marker.agent_epoch, floor: marker.floor, ..Ledger::default() }, hold)
            }
            (Start::Quarantine(marker), _) => {
                (Ledger { agent_epoch: marker.agent_epoch, floor: marker.floor, ..Ledger::default() }, Hold::Quarantine)
            }
        };
        let agent_epoch = ledger.agent_epoch + 1;
        let first_token = Token { epoch: agent_epoch, sequence: 0 };
        let clients = Clients::taken_up(ledger.clients, now);
        let relief = Relief::new(&settings.relief);
        let mut node = Self {
            engine: Engine::new(settings.policy.clone(), first_token),
            settings,
            agent_epoch,
            floor: ledger.floor,
            hold,
            gpus: BTreeMap::new(),
            driver: Driver::Unread,
            ram: Ram::default(),
            ram_room: None,
            ram_used: BTreeMap::new(),
            holders: Noted::new(ledger.holders),
            ended: Noted::new(ledger.ended),
            refused: BTreeMap::new(),
            orders: BTreeMap::new(),
            orders_told: BTreeSet::new(),
            pods: BTreeMap::new(),
            pods_known: false,
            cgroups: None,
            now: Moment::default(),
            look_began: Moment::default(),
            stopping_since: BTreeMap::new(),
            heard_until: None,
            ram_left: None,
            over_since: BTreeMap::new(),
            strangers: Default::default(),
            gives: Vec::new(),
            clients,
            parts: BTreeMap::new(),
            pushes: Vec::new(),
            drains: Drains { here: ledger.drained, cluster: ledger.wished },
            phases: BTreeMap::new(),
            plugins: None,
            wants_incarnation: false,
            relief,
            news: Vec::new(),
            counters: Counters::default(),
            unwritten: Default::default(),
            answers: Vec::new(),
        };
        node.know_gpus(ledger.gpus, now);
        node.adopt_records(ledger.records);
        // Since when, what is due when: of all that was adopted.
        node.follow_leases(now);
        if node.hold == Hold::Quarantine {
            let message = "the ledger of this boot is lost: nothing is granted until it is rebuilt".to_owned();
            node.tell(None, Severity::Warning, "Quarantine", message);
        }
        node
    }

    /// GPUs as they were last seen; closed until they are seen again.
    fn know_gpus(&mut self, gpus: Vec<crate::store::KnownGpu>, now: Moment) {
        for gpu in gpus {
            let mut health = GpuHealth::default();
            health.silent(NOT_READ, now);
            let state = GpuState {
                index: gpu.index,
                model: gpu.model,
                total: gpu.total,
                reserved: gpu.reserved,
                health,
                usage: GpuUse::default(),
                present: None,
            };
            self.gpus.insert(gpu.uuid, state);
        }
        self.tell_facts();
    }

    fn adopt_records(&mut self, mut records: Vec<LeaseRecord>) {
        // The ledger is of this machine, whatever it was called then.
        for placement in records.iter_mut().filter_map(|record| record.placement.as_mut()) {
            placement.node = self.settings.name.clone();
        }
        let part = |record: &LeaseRecord| self.clients.known.get(&record.request.id).is_some_and(Client::is_part);
        let (of_parts, records): (Vec<_>, Vec<_>) = records.into_iter().partition(part);
        for record in records {
            let id = record.request.id.clone();
            if let Err(refused) = self.engine.adopt(record) {
                // Only a ledger that contradicts itself comes here; its lease is not known to be free.
                tracing::error!(lease = %id, %refused, "a lease of the ledger cannot be adopted");
            }
        }
        let engine = &self.engine;
        self.holders.retain(|lease, _| engine.phase(lease).is_some());
        self.adopt_parts(of_parts);
        let unknown = self.clients.known.keys().filter(|lease| self.engine_of(lease).phase(lease).is_none());
        for lease in unknown.cloned().collect::<Vec<_>>() {
            drop(self.clients.forget(&lease));
        }
    }

    /// Takes leases up again from their objects, once all is known, and opens the node.
    pub(super) fn rebuild_if_due(&mut self, now: Moment) {
        let lost = match (&self.hold, self.settings.cluster) {
            (Hold::Open, _) => return,
            (Hold::Quarantine, Cluster::None) => {
                if self.driver != Driver::Unread {
                    self.open();
                }
                return;
            }
            (Hold::Rebuilding(_), _) => Lost::Boot,
            (Hold::Quarantine, Cluster::Kubernetes) => Lost::Ledger,
        };
        if !(self.orders_known() && self.pods_known) {
            return;
        }
        let mut all_placed = true;
        for order in self.orders.values().cloned().collect::<Vec<_>>() {
            all_placed &= self.take_up_again(&order, lost, now);
        }
        if all_placed {
            self.open();
        }
    }

    fn open(&mut self) {
        self.hold = Hold::Open;
        let message = format!("{} lease(s) were taken up again; grants are open", self.holders.len());
        self.tell(None, Severity::Normal, "Reconciled", message);
        self.tell_facts();
    }

    /// Whether that lease stands no longer in the way.
    fn take_up_again(&mut self, order: &Order, lost: Lost, now: Moment) -> bool {
        let lease = &order.request.id;
        if self.holders.contains_key(lease) || self.ended.contains_key(lease) {
            return true;
        }
        let pod = self.pods.get(&order.subject.pod).map(|pod| pod.state);
        let recorded = order.recorded.as_ref();
        let plan = plan_adoption(recorded, order.unwanted, pod, lost, &self.settings.policy, now);
        let (phase, recorded) = match (plan, recorded) {
            (Adoption::Charge(phase), Some(recorded)) => (phase, recorded),
            (Adoption::Over(reason), Some(recorded)) => {
                self.is_over(order, recorded, reason);
                return true;
            }
            _ => return true,
        };
        // What was moved into RAM is gone with a boot.
        let ram = if lost == Lost::Boot { order.placement.ram } else { recorded.ram };
        let placement = Placement { gpus: recorded.gpus.clone(), ram, ..order.placement.clone() };
        let mut request = order.request.clone();
        request.demand.ram = ram;
        request.demand.slots = recorded.gpus.iter().map(|share| Slot::fixed(share.memory)).collect();
        request.gpus.models.clear();
        request.gpus.uuids = recorded.gpus.iter().map(|share| share.uuid.clone()).collect();
        let token = self.next_token();
        match self.engine.adopt(LeaseRecord { request, phase, placement: Some(placement.clone()), token }) {
            Ok(()) => {
                tracing::info!(%lease, "taken up again");
                let mut holder = holder_of(order);
                holder.answered.attempt = recorded.attempt;
                holder.placement = placement;
                self.holders.insert(lease.clone(), holder);
                true
            }
            // NVML may be late.
            Err(Refused::UnknownGpu { .. }) if self.driver != Driver::Read => false,
            Err(refused) => {
                tracing::warn!(%lease, %refused, "cannot be taken up again");
                let reason = if matches!(refused, Refused::UnknownGpu { .. }) {
                    EndReason::GpuLost
                } else {
                    EndReason::NodeLost
                };
                self.is_over(order, recorded, reason);
                true
            }
        }
    }

    fn is_over(&mut self, order: &Order, recorded: &Recorded, reason: EndReason) {
        let mut answered = answered(order);
        answered.attempt = recorded.attempt;
        let ended = Ended { answered, reason, gpus: recorded.gpus.clone(), token: recorded.token };
        self.ended.insert(order.request.id.clone(), ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_core::Mib;

    #[test]
    fn what_becomes_of_a_lease_depends_on_its_record_its_pod_and_what_was_lost() {
        let now = Moment::from_millis(1000);
        let policy = Policy::default();
        let reserved = || Adoption::Charge(Phase::Reserved { until: now.after(policy.reservation) });
        let active = || Adoption::Charge(Phase::Active { since: now });
        let stopping = |reason| Adoption::Charge(Phase::Stopping { reason });
        let exited = EndReason::Exited;
        let (live, leaving) = (Some(PodState::Live), Some(PodState::Leaving));
        let cases = [
            (State::Reserved, live, None, reserved(), active()),
            (State::Reserved, None, None, reserved(), reserved()),
            (State::Active, live, None, reserved(), active()),
            (State::Revoking, live, None, reserved(), active()),
            (State::Active, leaving, None, Adoption::Over(exited), active()),
            (State::Active, None, None, Adoption::Over(exited), stopping(exited)),
            (State::Stopping, live, None, Adoption::Over(EndReason::Preempted), stopping(EndReason::Preempted)),
            (
                State::Active,
                live,
                Some(EndReason::Deleted),
                Adoption::Over(EndReason::Deleted),
                stopping(EndReason::Deleted),
            ),
            (State::Claimed, live, None, Adoption::Nothing, Adoption::Nothing),
            (State::Refused, live, None, Adoption::Nothing, Adoption::Nothing),
            (State::Ended, live, None, Adoption::Nothing, Adoption::Nothing),
        ];
        for (state, pod, unwanted, boot, ledger) in cases {
            let recorded = Recorded {
                state,
                attempt: 1,
                gpus: vec![],
                ram: Mib::ZERO,
                token: Token::default(),
                reason: Some(EndReason::Preempted),
            };
            for (lost, expect) in [(Lost::Boot, boot), (Lost::Ledger, ledger)] {
                let plan = plan_adoption(Some(&recorded), unwanted, pod, lost, &policy, now);
                assert_eq!(plan, expect, "{state:?} {pod:?} {unwanted:?} {lost:?}");
            }
        }
    }
}
