//! What is done about placements: every order is compared with what is held, again and again, so that none is lost whatever came in between.

use memboss_core::{Admission, EndReason, LeaseId, Moment, NodeSelector, Phase, Refused};

use memboss_crds::LeaseKind;

use super::{Hold, Node, RefusedOrder, Severity};
use crate::order::{Action, Answered, Epoch, Held, Order, State, judge, object_name};
use crate::store::{Ended, Holder};

impl Node {
    pub(super) fn take_orders(&mut self, kind: LeaseKind, orders: Vec<Order>) {
        self.orders_told.insert(kind);
        self.orders.retain(|lease, _| object_name(lease).0 != kind);
        self.orders.extend(orders.into_iter().map(|order| (order.request.id.clone(), order)));
    }

    /// Whether the API server has told all that it wants of this node.
    pub(super) fn orders_known(&self) -> bool {
        [LeaseKind::Vram, LeaseKind::Ram].iter().all(|kind| self.orders_told.contains(kind))
    }

    /// The installation that the API server says it is: placements of it are heard, whatever came before; others are of the past.
    pub(super) fn learn_incarnation(&mut self, incarnation: &str) {
        self.wants_incarnation = false;
        let foreign = |floor: &Option<Epoch>| floor.as_ref().is_none_or(|floor| floor.incarnation != incarnation);
        if foreign(&self.floor) {
            let message = format!("placements of installation {incarnation} are heard from now on");
            if self.floor.is_some() {
                self.tell(None, Severity::Normal, "NewIncarnation", message);
            }
            self.floor = Some(Epoch { incarnation: incarnation.to_owned(), number: 0 });
        }
        let stale: Vec<_> =
            self.orders.values().filter(|order| order.epoch.incarnation != incarnation).cloned().collect();
        for order in stale {
            if matches!(self.action(&order), Action::Confirm) {
                let seen = self.floor.as_ref().map_or(0, |floor| floor.number);
                self.refuse(&order, Refused::StaleEpoch { seen, given: order.epoch.number });
            }
        }
    }

    pub(super) fn reconcile_orders(&mut self, now: Moment) {
        self.forget_what_nobody_asks_for();
        // The earliest in the queue first, so that what comes at once is served in order.
        let mut orders: Vec<_> = self.orders.values().cloned().collect();
        orders.sort_by_key(|order| (std::cmp::Reverse(order.request.class), order.request.enqueued));
        for order in orders {
            self.reconcile(&order, now);
        }
    }

    fn reconcile(&mut self, order: &Order, now: Moment) {
        let lease = &order.request.id;
        match self.action(order) {
            Action::Keep | Action::Later => {}
            Action::Renumber => {
                if let Some(holder) = self.holders.get_mut(lease) {
                    holder.answered = answered(order);
                }
            }
            Action::Release(reason) => {
                tracing::info!(%lease, %reason, "given back");
                self.release(lease, reason);
            }
            Action::Close(reason) => {
                self.refused.remove(lease);
                let before = order.recorded.as_ref().filter(|recorded| recorded.state == State::Ended);
                let ended = Ended {
                    answered: answered(order),
                    reason,
                    gpus: before.map(|recorded| recorded.gpus.clone()).unwrap_or_default(),
                    token: before.map(|recorded| recorded.token).unwrap_or_default(),
                };
                self.ended.insert(lease.clone(), ended);
            }
            Action::Confirm => self.wants_incarnation = true,
            Action::Stale { seen } => self.refuse(order, Refused::StaleEpoch { seen, given: order.epoch.number }),
            Action::Admit => self.admit(order, now),
        }
    }

    fn action(&self, order: &Order) -> Action {
        let lease = &order.request.id;
        let view = self.engine.lease(lease);
        let held = match (self.holders.get(lease), &view, self.refused.get(lease), self.ended.get(lease)) {
            (Some(holder), Some(view), ..) => Held::Lease {
                answered: &holder.answered,
                phase: &view.phase,
                placement: view.placement.as_ref().or(Some(&holder.placement)),
            },
            (_, _, Some(refused), _) => Held::Refused { answered: &refused.answered, epoch: &refused.epoch },
            (_, _, _, Some(ended)) => Held::Ended { answered: &ended.answered },
            _ => Held::Nothing,
        };
        judge(
            order,
            &held,
            self.floor.as_ref(),
            self.hold == Hold::Open && self.orders_known() && !self.plugin_is_away(),
        )
    }

    /// A pod that reaches the kubelet while the device plugin is away Fails for good: until it is back, nothing new is sent there.
    pub(super) fn plugin_is_away(&self) -> bool {
        self.plugins == Some(0)
    }

    fn admit(&mut self, order: &Order, now: Moment) {
        self.floor = Some(order.epoch.clone());
        let lease = order.request.id.clone();
        let mut request = order.request.clone();
        // Should the reservation time out, it waits for this place: its pod cannot go elsewhere.
        request.nodes = NodeSelector::Only([self.settings.name.clone()].into());
        if let Some(room) = order.ram_room {
            self.ram_room = Some(room);
            self.tell_facts();
        }
        request.gpus.models.clear();
        request.gpus.uuids = order.placement.gpus.iter().map(|share| share.uuid.clone()).collect();
        match self.engine.admit(request, &order.placement, order.may_preempt, now) {
            Ok(admission) => {
                if let Admission::Claimed { victims } = admission {
                    tracing::info!(%lease, victims = victims.len(), "claimed");
                }
                self.refused.remove(&lease);
                self.ended.remove(&lease);
                self.holders.insert(lease, holder_of(order));
            }
            Err(refused) => self.refuse(order, refused),
        }
    }

    fn refuse(&mut self, order: &Order, why: Refused) {
        let lease = order.request.id.clone();
        tracing::info!(%lease, attempt = order.attempt, reason = why.name(), "refused: {why}");
        *self.counters.refusals.entry(why.name()).or_default() += 1;
        self.ended.remove(&lease);
        self.refused.insert(lease, RefusedOrder { answered: answered(order), epoch: order.epoch.clone(), why });
    }

    /// Once the API server has told all: what has no object any more and no holder yet is given back; a holder that is there stays until it goes.
    fn forget_what_nobody_asks_for(&mut self) {
        if !self.orders_known() {
            return;
        }
        self.refused.retain(|lease, _| self.orders.contains_key(lease));
        self.ended.retain(|lease, _| self.orders.contains_key(lease));
        let unasked: Vec<LeaseId> =
            self.holders.keys().filter(|lease| !self.orders.contains_key(*lease)).cloned().collect();
        for lease in unasked {
            let phase = self.engine.lease(&lease).map(|view| view.phase);
            if matches!(phase, None | Some(Phase::Waiting | Phase::Reserved { .. })) {
                self.release(&lease, EndReason::Deleted);
            }
        }
    }
}

pub(super) fn answered(order: &Order) -> Answered {
    Answered { object: order.object.clone(), attempt: order.attempt }
}

pub(super) fn holder_of(order: &Order) -> Holder {
    Holder {
        subject: order.subject.clone(),
        answered: answered(order),
        placement: order.placement.clone(),
        may_preempt: order.may_preempt,
        containers: order.containers.clone(),
        cgroup_seen: false,
    }
}
