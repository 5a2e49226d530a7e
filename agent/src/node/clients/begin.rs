//! How a lease in code begins: the limits of its owner, its name, whether it would wait; and how it is taken up again.

use memboss_core::{Class, EndReason, Forecast, LeaseId, Moment, NodeSelector, Phase, Refused, Request, Waiting};
use sha2::{Digest as _, Sha256};

use super::{Accepted, Client, Listener, Told, Wish};
use crate::node::holders::Denied;
use crate::node::{Cluster, Hold, Node, PodFact};
use crate::probes::processes::Caller;
use crate::store::hex;

/// The digest by which a secret is known.
fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

impl Node {
    /// The request under the name that it has here: its owner's, so that nobody can name another's.
    pub(super) fn wished(&self, caller: &Caller, wish: &Wish, now: Moment) -> Result<Request, Denied> {
        self.check_class(caller, wish.request.class)?;
        let owner = caller.owner();
        let id =
            if wish.name.is_empty() { self.free_name(&owner) } else { LeaseId::new(format!("{owner}/{}", wish.name)) };
        let id = id.map_err(|bad| Denied::BadRequest(bad.to_string()))?;
        let nodes = NodeSelector::Only([self.settings.name.clone()].into());
        Ok(Request { id, nodes, enqueued: now, ..wish.request.clone() })
    }

    /// What would come of a request now.
    pub(super) fn forecast(&mut self, caller: &Caller, wish: &Wish, now: Moment) -> Result<Forecast, Denied> {
        let request = self.wished(caller, wish, now)?;
        let whole = self.whole_of(caller)?;
        let mut told = self.engine_over(whole.as_ref()).dry_run(&request, now).map_err(Denied::Refused)?;
        if let Forecast::Wait { satisfiable, why: Waiting::NoRam { .. }, .. } = &mut told {
            // Too much for what can be leased now may be none too much later.
            *satisfiable |= self.check_possible(whole.as_ref(), &request).is_ok();
        }
        Ok(told)
    }

    fn check_class(&self, caller: &Caller, class: Class) -> Result<(), Denied> {
        let owner = caller.owner();
        if self.settings.cluster == Cluster::None {
            let highest = self.settings.clients.ceilings.of(caller);
            if class > highest {
                return Err(Denied::NotYours(format!("{owner} may ask for classes up to {highest}, not for {class}")));
            }
            return Ok(());
        }
        // Admission judged it when the pod was made.
        let highest = self.listed(caller)?.class;
        if class > highest {
            return Err(Denied::NotYours(format!(
                "{owner} may ask for classes up to {highest}, its own, not for {class}: annotate the pod memboss.dev/priority={class} when it is made"
            )));
        }
        Ok(())
    }

    /// The caller's pod, as the API server has told of it.
    fn listed(&self, caller: &Caller) -> Result<&PodFact, Denied> {
        let pid = caller.process.pid;
        let pod = caller.pod.as_ref().ok_or_else(|| {
            Denied::NotNow(format!("on a node of a cluster pods lease in code, and process {pid} is in none"))
        })?;
        self.pods.get(pod).ok_or_else(|| {
            Denied::NotNow(if self.pods_known {
                format!(
                    "pod {pod} is none that leases in code: annotate it memboss.dev/agent=true when it is made; if it is, ask again in a moment"
                )
            } else {
                "the API server has not told yet which pods are here: ask again in a moment".to_owned()
            })
        })
    }

    /// A name that nobody has, whatever names of their own owners chose.
    fn free_name(&self, owner: &str) -> Result<LeaseId, memboss_core::BadName> {
        let mut number = self.clients.named;
        loop {
            number += 1;
            let id = LeaseId::new(format!("{owner}/{}-{number}", self.agent_epoch))?;
            if !self.clients.known.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    pub(super) fn acquire(
        &mut self,
        caller: &Caller,
        wish: Wish,
        secret: String,
        listener: Listener,
        now: Moment,
    ) -> Result<Accepted, Denied> {
        self.serves_code()?;
        let mut request = self.wished(caller, &wish, now)?;
        let whole = self.whole_of(caller)?;
        self.check_possible(whole.as_ref(), &request)?;
        let lease = request.id.clone();
        let before = self.asked_before(caller, &lease)?;
        let mut at_once = wish.no_wait;
        match &before {
            Some(before) => request.enqueued = before.enqueued,
            None => at_once |= self.check_limits(caller)?,
        }
        if before.is_none() && at_once {
            self.check_room(caller, whole.as_ref(), &wish, &request, now)?;
        }
        if let Some(whole) = &whole {
            // The pod is here, whichever container of it this is: its lease is not kept for one that never comes.
            self.engine.activate(whole, now).map_err(Denied::Refused)?;
        }
        self.engine_over(whole.as_ref()).submit(request).map_err(Denied::Refused)?;
        self.clients.named += u64::from(wish.name.is_empty());
        let client = Client {
            caller: caller.clone(),
            label: wish.label,
            secret: digest(&secret),
            ttl: wish.ttl,
            alive: now,
            give_up: wish.timeout.map(|timeout| now.after(timeout)),
            given_back: false,
            gone: false,
            part_of: whole,
        };
        self.clients.add(lease.clone(), client);
        if before.is_none() && at_once {
            self.decide(now);
            if self.engine_of(&lease).phase(&lease) == Some(&Phase::Waiting) {
                self.release(&lease, EndReason::Released);
                return Err(Denied::WouldWait("others come first".to_owned()));
            }
        }
        self.clients.to_watch.push(caller.process);
        self.clients.hears(&lease, listener);
        Ok(Accepted { lease, secret })
    }

    fn serves_code(&self) -> Result<(), Denied> {
        if self.hold != Hold::Open {
            return Err(Denied::NotNow(
                "the ledger of this machine is being rebuilt: ask again in a moment".to_owned(),
            ));
        }
        Ok(())
    }

    /// The request as it was asked before under that name, if it was: by the same process, which may not have heard the answer.
    fn asked_before(&self, caller: &Caller, lease: &LeaseId) -> Result<Option<Request>, Denied> {
        let Some(client) = self.clients.known.get(lease) else { return Ok(None) };
        if client.caller.process != caller.process {
            let pid = client.caller.process.pid;
            return Err(Denied::NotNow(format!(
                "lease {lease} is held by process {pid}: take it up with Resume and its secret, or choose another request id"
            )));
        }
        if matches!(self.engine_of(lease).phase(lease), Some(Phase::Stopping { .. })) {
            return Err(Denied::NotNow(format!("lease {lease} is about to end: ask again when it is over")));
        }
        Ok(self.engine_of(lease).request(lease))
    }

    /// Whether one more can be had only if it need not wait.
    fn check_limits(&self, caller: &Caller) -> Result<bool, Denied> {
        let limits = &self.settings.clients;
        let all = self.clients.count_of(caller);
        if all >= limits.leases {
            let most = limits.leases;
            return Err(Denied::TooMany(format!("{} has {most} leases here, which is the most", caller.owner())));
        }
        // Counted only where it could be too many.
        let waits = |lease: &&LeaseId| self.engine_of(lease).phase(lease) == Some(&Phase::Waiting);
        Ok(all >= limits.waiting && self.clients.of_owner(caller).filter(waits).count() >= limits.waiting)
    }

    /// Refuses RAM for which no waiting helps. How much can be leased changes all the time; how much there is in all does not.
    fn check_possible(&self, whole: Option<&LeaseId>, request: &Request) -> Result<(), Denied> {
        let of_whole = |whole| self.engine.lease(whole).and_then(|view| view.placement).map(|placement| placement.ram);
        let (place, most) = match whole {
            Some(whole) => ("its pod's lease", of_whole(whole).unwrap_or_default()),
            None => ("this machine", self.ram.total),
        };
        let asked = request.demand.ram;
        if asked.is_zero() || asked <= most || (whole.is_none() && most.is_zero()) {
            return Ok(());
        }
        Err(Denied::WouldWait(format!("it could never be granted here: needs {asked} of RAM, and {place} has {most}")))
    }

    /// Refuses what would have to wait.
    fn check_room(
        &mut self,
        caller: &Caller,
        whole: Option<&LeaseId>,
        wish: &Wish,
        request: &Request,
        now: Moment,
    ) -> Result<(), Denied> {
        let forecast = self.engine_over(whole).dry_run(request, now).map_err(Denied::Refused)?;
        match forecast {
            Forecast::Grant(_) => Ok(()),
            other if wish.no_wait => Err(Denied::WouldWait(would_wait(&other, caller))),
            _ => {
                let most = self.settings.clients.waiting;
                Err(Denied::TooMany(format!("{} has {most} leases that wait, which is the most", caller.owner())))
            }
        }
    }

    pub(super) fn resume(
        &mut self,
        caller: &Caller,
        lease: &str,
        secret: &str,
        listener: Listener,
    ) -> Result<LeaseId, Denied> {
        let lease = self.own(caller, lease)?;
        let stopping = matches!(self.engine_of(&lease).phase(&lease), Some(Phase::Stopping { .. }));
        let Some(client) = self.clients.known.get_mut(&lease) else {
            return Err(Denied::NotFound(format!("no lease {lease} is known here")));
        };
        // Root may steer another's lease, but not hold it.
        if !client.caller.is_of(caller) || client.secret != digest(secret) {
            return Err(Denied::NotYours(format!("lease {lease} has another secret")));
        }
        if stopping && client.caller.process != caller.process {
            return Err(Denied::NotNow(format!("lease {lease} is about to end: ask for another")));
        }
        // Another process of the same owner may take it over: a program that was started again.
        client.gone = false;
        client.caller = caller.clone();
        self.clients.to_watch.push(caller.process);
        self.clients.hears(&lease, listener);
        Ok(lease)
    }

    pub(super) fn renew(&mut self, caller: &Caller, lease: &str, now: Moment) -> Result<Told, Denied> {
        let lease = self.own(caller, lease)?;
        let Some(client) = self.clients.known.get_mut(&lease) else {
            return Err(Denied::NotFound(format!("no lease {lease} is known here")));
        };
        if client.ttl.is_none() {
            return Err(Denied::NotNow(format!("lease {lease} lives by its connection: there is nothing to renew")));
        }
        client.alive = now;
        self.told(&lease).ok_or(Denied::Refused(Refused::UnknownLease(lease)))
    }
}

fn would_wait(forecast: &Forecast, caller: &Caller) -> String {
    match forecast {
        Forecast::Grant(_) => "it would be granted".to_owned(),
        Forecast::Preempt { victims, .. } => format!("{} lease(s) would have to give way first", victims.len()),
        // A pod does not learn what others are called.
        Forecast::Wait { ahead, why: why @ Waiting::Behind { .. }, .. } if caller.pod.is_some() => {
            format!("{}: it would fit, but {ahead} wait before it", why.name())
        }
        Forecast::Wait { ahead: 0, why, .. } => format!("{}: {why}", why.name()),
        Forecast::Wait { ahead, why, .. } => format!("{}: {why}; {ahead} wait before it", why.name()),
    }
}
