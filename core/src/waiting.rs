//! Why a lease waits: finds the reason that says what would change it, and tells it once. It may not grant anything.

use crate::decide::Decision;
use crate::engine::{Engine, Lease};
use crate::ids::NodeName;
use crate::ledger::Node;
use crate::order::{LineIx, OrderKey};
use crate::place::{Asker, Fits, Full, SEARCH_LIMIT};
use crate::pool::LeaseIx;
use crate::refuse::{Closed, Waiting};
use crate::request::Request;
use crate::units::Mib;

impl Engine {
    pub(crate) fn why_not(&mut self, line: LineIx, asker: Asker, full: Full) -> Waiting {
        let Some(request) = self.lease_at(asker.lease).map(|lease| lease.request.clone()) else { return Waiting::New };
        let inventory = self.ledger.inventory;
        let known = self.queue.line(line).and_then(|line| line.largest).filter(|(at, ..)| *at == inventory);
        let (_, largest, fits) = known.unwrap_or_else(|| {
            let (largest, fits) = self.ledger.largest(&request);
            (inventory, largest, fits)
        });
        if let Some(line) = self.queue.line_mut(line) {
            line.largest = Some((inventory, largest, fits));
        }
        self.in_the_way(&request, asker, full, (largest, fits))
    }

    /// What would have to change for that request; `largest` as [`crate::ledger::Ledger::largest`] says.
    pub(crate) fn in_the_way(
        &self,
        request: &Request,
        asker: Asker,
        full: Full,
        (largest, fits): (Mib, Fits),
    ) -> Waiting {
        let need = request.demand.slots.iter().map(|slot| slot.on(largest)).max().unwrap_or_default();
        let pressed = self.pressed_node(request);
        let no_ram = |free: Option<Mib>| match &pressed {
            Some(node) => Waiting::NodePressure { need: request.demand.ram, node: node.clone() },
            None => Waiting::NoRam {
                need: request.demand.ram,
                most: free.unwrap_or_else(|| self.most_ram(request, None)),
                when_empty: free.is_none(),
            },
        };
        if request.demand.slots.is_empty() {
            return match full {
                Full::KeptFor(head, pool) => self.behind(head, pool),
                Full::NoRoom => no_ram((fits == Fits::Yes).then(|| self.most_ram(request, Some(asker.order)))),
            };
        }
        match fits {
            Fits::Yes => {}
            Fits::Perhaps => return self.unread(request),
            Fits::No if self.gpus_alone_would_do(request) => return no_ram(None),
            Fits::No => return Waiting::Unsatisfiable { need, gpus: request.demand.slots.len(), largest },
        }
        if let Full::KeptFor(head, pool) = full {
            return self.behind(head, pool);
        }
        if !request.demand.ram.is_zero() {
            let most = self.most_ram(request, Some(asker.order));
            if most < request.demand.ram || pressed.is_some() {
                return no_ram(Some(most));
            }
        }
        let most_free = self.most_free(request, asker.order);
        match self.closed_to(request).filter(|_| most_free.is_zero()) {
            Some((gpu, why)) => Waiting::Closed { gpu, why },
            None => Waiting::NoRoom { need, most_free, class: request.class },
        }
    }

    fn behind(&self, head: LeaseIx, pool: u32) -> Waiting {
        Waiting::Behind { head: self.id_of(head), gpu: self.ledger.name_of(pool) }
    }

    /// A node where it could go, and whose RAM is closed for pressure.
    fn pressed_node(&self, request: &Request) -> Option<NodeName> {
        let closed = |node: &Node| self.ledger.pool(node.ram).closed.why() == Some(Closed::NodePressure);
        let mut nodes = self.ledger.nodes().map(|(_, node)| node);
        let pressed = nodes.find(|node| request.nodes.accepts(&node.name) && closed(node));
        pressed.filter(|_| !request.demand.ram.is_zero()).map(|node| node.name.clone())
    }

    /// A GPU that would do, and why it takes nothing new, if none does.
    fn closed_to(&self, request: &Request) -> Option<(String, Closed)> {
        let gpus = self.ledger.nodes().flat_map(|(_, node)| node.gpus.values().copied());
        let mut would_do = gpus.filter(|gpu| self.ledger.accepts(request, *gpu));
        let (first, why) = would_do.next().and_then(|gpu| Some((gpu, self.ledger.closed(gpu)?)))?;
        would_do.all(|gpu| self.ledger.closed(gpu).is_some()).then(|| (self.ledger.name_of(first), why))
    }

    /// That it waits for a node to tell of its GPUs, an open one if there is any.
    fn unread(&self, request: &Request) -> Waiting {
        let nodes = self.ledger.nodes().map(|(_, node)| node);
        let may = nodes.filter(|node| self.ledger.may_yet_hold(request, node));
        may.min_by_key(|node| node.closed.why().is_some()).map_or(Waiting::New, |node| Waiting::Closed {
            gpu: format!("those of {}", node.name),
            why: node.closed.why().unwrap_or(Closed::Unread),
        })
    }

    fn gpus_alone_would_do(&self, request: &Request) -> bool {
        let mut without = request.clone();
        without.demand.ram = Mib::ZERO;
        self.ledger.largest(&without).1 != Fits::No
    }

    /// The most RAM of an eligible node: free now for one with that place, or when it is empty.
    fn most_ram(&self, request: &Request, now: Option<OrderKey>) -> Mib {
        let nodes = self.ledger.nodes().filter(|(_, node)| request.nodes.accepts(&node.name));
        let most = |(_, node): (_, &Node)| match (self.ledger.pool(node.ram), now) {
            (pool, None) => pool.leasable,
            (pool, Some(_)) if node.closed.why().or(pool.closed.why()).is_some() => Mib::ZERO,
            (pool, Some(order)) => pool.free_for(request.class, order),
        };
        nodes.map(most).max().unwrap_or_default()
    }

    fn most_free(&self, request: &Request, order: OrderKey) -> Mib {
        let mut most = Mib::ZERO;
        for (free, ix) in self.ledger.gpus_by_free().iter().rev().take(SEARCH_LIMIT) {
            // The most free come first: what follows cannot have more.
            if *free <= most {
                break;
            }
            if self.ledger.accepts(request, *ix) {
                most = most.max(self.ledger.pool(*ix).free_for(request.class, order));
            }
        }
        most
    }

    /// Tells why somebody waits, if that is news. How much is free changes all the time and is no news.
    pub(crate) fn say_waiting(&mut self, ix: LeaseIx, why: Waiting, out: &mut Vec<Decision>) {
        let Some(lease) = self.lease_at_mut(ix) else { return };
        let changes_often =
            matches!(why, Waiting::NoRoom { .. } | Waiting::NoRam { .. } | Waiting::VictimsProtected { .. });
        let news = lease.why.name() != why.name() || (why != lease.why && !changes_often);
        lease.why = why.clone();
        if news {
            out.push(Decision::Wait { lease: lease.request.id.clone(), why });
        }
    }

    /// Why it waits. One that is not the first of its line has not been looked at itself: it asks for the same as that first.
    pub(crate) fn reason_of(&self, lease: &Lease) -> Waiting {
        let first = lease.line.and_then(|line| self.queue.head_of(line)).and_then(|(_, ix)| self.lease_at(ix));
        match (&lease.why, first) {
            (Waiting::New, Some(first)) => first.why.clone(),
            (why, _) => why.clone(),
        }
    }
}
