//! Who is gone, and whose memory is free. Memory counts as free only when NVML was read and shows no process of the pod, and the pod's cgroup is
//! gone; no timer frees anything.

use std::collections::BTreeSet;

use memboss_core::{EndReason, LeaseId, LeaseView, Mib, Moment, Phase};

use super::{Node, PodFact, PodState, RamUser, Severity};
use crate::probes::processes::PodUid;

impl Node {
    /// Notes whose cgroup is there; a holder whose cgroup was there and is gone has exited.
    pub(super) fn watch_cgroups(&mut self, now: Moment) {
        let Some(cgroups) = &self.cgroups else { return };
        let (mut exited, mut came, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for (lease, holder) in self.holders.iter() {
            if cgroups.contains(&holder.subject.pod) {
                if !holder.cgroup_seen {
                    seen.push(lease.clone());
                }
                // The device plugin tells of a container that gets a GPU; nobody tells of one that has RAM alone.
                let reserved = || matches!(self.engine.phase(lease), Some(Phase::Reserved { .. }));
                if holder.placement.gpus.is_empty() && reserved() {
                    came.push(lease.clone());
                }
            } else if holder.cgroup_seen {
                exited.push(lease.clone());
            }
        }
        for lease in &seen {
            if let Some(holder) = self.holders.get_mut(lease) {
                holder.cgroup_seen = true;
            }
        }
        for lease in came {
            if let Err(refused) = self.engine.activate(&lease, now) {
                tracing::warn!(%lease, %refused, "its pod is here, and it cannot be held");
            }
        }
        for lease in exited {
            self.stop_if_held(&lease, EndReason::Exited);
            // The look itself is the proof that nothing of the pod is left to start anything.
            self.stopping_since.entry(lease).or_insert(self.look_began);
        }
    }

    /// Since when each of those leases is in its phase, and since when it is stopping, if it is. What was adopted knows of its grant and its arrival.
    pub(super) fn note_phases(&mut self, leases: &BTreeSet<LeaseId>, now: Moment) {
        for lease in leases {
            let Some(phase) = self.engine_of(lease).phase(lease) else {
                self.phases.remove(lease);
                self.stopping_since.remove(lease);
                continue;
            };
            let (name, stopping) = (phase.name(), matches!(phase, Phase::Stopping { .. }));
            let since = match (self.phases.get(lease), phase) {
                (Some((before, since)), _) if *before == name => *since,
                (None, Phase::Active { since }) => *since,
                (None, Phase::Waiting) => self.engine_of(lease).request(lease).map_or(now, |request| request.enqueued),
                _ => now,
            };
            if stopping {
                self.stopping_since.entry(lease.clone()).or_insert(now);
            } else {
                self.stopping_since.remove(lease);
            }
            self.phases.insert(lease.clone(), (name, since));
        }
    }

    fn stop_if_held(&mut self, lease: &LeaseId, reason: EndReason) {
        let phase = self.engine.phase(lease);
        if matches!(phase, Some(Phase::Reserved { .. } | Phase::Active { .. } | Phase::Revoking { .. })) {
            self.release(lease, reason);
        }
    }

    pub(super) fn take_pods(&mut self, pods: Vec<PodFact>) {
        let now_there: BTreeSet<PodUid> = pods.iter().map(|pod| pod.uid.clone()).collect();
        let gone: Vec<PodFact> = self.pods.values().filter(|pod| !now_there.contains(&pod.uid)).cloned().collect();
        self.pods_known = true;
        for pod in gone {
            self.take_pod(PodFact { state: PodState::Over, ..pod });
        }
        for pod in pods {
            self.take_pod(pod);
        }
    }

    /// A hint: a pod that is over starts to stop, but it is charged until its memory is seen free.
    pub(super) fn take_pod(&mut self, pod: PodFact) {
        if pod.state == PodState::Over {
            let held: Vec<_> = self
                .holders
                .iter()
                .filter(|(_, holder)| holder.subject.pod == pod.uid)
                .map(|(lease, _)| lease.clone())
                .collect();
            for lease in held {
                self.stop_if_held(&lease, EndReason::Exited);
            }
            self.pods.remove(&pod.uid);
        } else {
            self.pods.insert(pod.uid.clone(), pod);
        }
    }

    /// Ends every lease that is stopping and whose memory the last look showed free.
    pub(super) fn end_what_is_free(&mut self, now: Moment) {
        let stopping = self.all_stopping().into_iter();
        let free: Vec<_> = stopping.filter(|(lease, _)| self.is_seen_free(lease)).collect();
        let had_ram = |(lease, _): &(LeaseId, EndReason)| self.ram_used.get(lease).is_some_and(|used| !used.is_zero());
        let ram_left = free.iter().any(had_ram);
        for (lease, reason) in free {
            // A process that gave it back goes on, and may still use a part.
            if self.clients.known.get(&lease).is_some_and(|client| client.given_back) {
                self.disown(&lease);
            }
            self.end(&lease, reason);
        }
        // What its holder had of RAM is a lease's no more, and whether it has it still only the next look shows: until then it is not there.
        if ram_left {
            self.ram_left = Some(now);
            self.tell_facts();
        }
    }

    fn is_seen_free(&self, lease: &LeaseId) -> bool {
        if self.clients.known.contains_key(lease) {
            return self.is_given_up(lease);
        }
        let (Some(holder), Some(view)) = (self.holders.get(lease), self.engine.lease(lease)) else { return false };
        let pod = &holder.subject.pod;
        if self.stopping_since.get(lease).is_none_or(|since| *since > self.look_began) {
            return false;
        }
        let cgroup_gone = self.cgroups.as_ref().is_some_and(|pods| !pods.contains(pod));
        let unused = view.placement.iter().flat_map(|placement| &placement.gpus).all(|share| {
            let gpu = self.gpus.get(&share.uuid);
            gpu.and_then(|gpu| gpu.present.as_ref()).is_some_and(|present| !present.contains(pod))
        });
        cgroup_gone && unused
    }

    /// What a lease's holder uses, slot by slot.
    pub(crate) fn used_by(&self, lease: &LeaseId) -> Vec<Mib> {
        let shares = self.engine.lease(lease).and_then(|view| view.placement).map(|p| p.gpus).unwrap_or_default();
        let used = |uuid| self.gpus.get(uuid).and_then(|gpu| gpu.usage.leases.get(lease)).copied().unwrap_or_default();
        shares.iter().map(|share| used(&share.uuid)).collect()
    }

    /// Of whom RAM in use is worth looking at: leases that asked for some, with who uses it and what they hold. What a holder has moved there from a GPU
    /// is not among it: how much of a pod's RAM that is, nobody can tell.
    #[must_use]
    pub fn wants_ram_of(&self) -> Vec<(LeaseId, RamUser, Mib)> {
        let user = |lease: LeaseView| {
            let held = self.asked_ram(&lease.id).filter(|_| lease.phase.is_charged())?;
            let pod = self.holders.get(&lease.id).map(|holder| RamUser::Pod(holder.subject.pod.clone()));
            let process = || self.clients.known.get(&lease.id).map(|client| RamUser::Process(client.caller.process));
            pod.or_else(process).map(|user| (lease.id, user, held))
        };
        self.engine.leases().into_iter().filter_map(user).collect()
    }

    /// The RAM for which the lease was asked; nothing if it was for none.
    pub(super) fn asked_ram(&self, lease: &LeaseId) -> Option<Mib> {
        let ordered = self.orders.get(lease).map(|order| order.request.demand.ram);
        let asked = ordered.or_else(|| self.engine.request(lease).map(|request| request.demand.ram));
        asked.filter(|asked| !asked.is_zero())
    }

    /// What of the RAM that is promised its holders use already: it is missing in what is available.
    pub(super) fn promised_and_used(&self) -> Mib {
        let used = |lease: LeaseView| {
            let held = lease.placement.filter(|_| lease.phase.is_charged())?.ram;
            let asked = self.asked_ram(&lease.id)?;
            self.ram_used.get(&lease.id).map(|used| held.min(asked).min(*used))
        };
        self.engine.leases().into_iter().filter_map(used).sum()
    }

    /// Use above a lease and use without one: told when it begins; ended after its class's time, if it has one.
    pub(super) fn judge_use(&mut self, now: Moment) {
        let views = self.engine.leases();
        let charged = views.iter().filter(|lease| lease.phase.is_charged());
        let mut over = Vec::new();
        for lease in charged {
            let shares = lease.placement.as_ref().map(|p| p.gpus.as_slice()).unwrap_or_default();
            let used = self.used_by(&lease.id);
            let ram = lease.placement.as_ref().map(|placement| placement.ram).unwrap_or_default();
            let ram_used = self.ram_used.get(&lease.id).copied().unwrap_or_default();
            let what = if shares.iter().zip(&used).any(|(share, used)| *used > share.memory) {
                let leased: Mib = shares.iter().map(|share| share.memory).sum();
                format!(
                    "{} of GPU memory and leased {leased}: what is above counts as foreign",
                    used.iter().copied().sum::<Mib>()
                )
            } else if ram_used > ram && self.asked_ram(&lease.id).is_some() {
                format!("{ram_used} of RAM and leased {ram}")
            } else {
                continue;
            };
            over.push((lease.id.clone(), lease.class, what));
        }
        let names: BTreeSet<_> = over.iter().map(|(lease, ..)| lease.clone()).collect();
        self.over_since.retain(|lease, _| names.contains(lease));
        for (lease, class, what) in over {
            if !self.over_since.contains_key(&lease) {
                self.over_since.insert(lease.clone(), (now, format!("it uses {what}")));
                self.tell(Some(&lease), Severity::Warning, "OverLease", format!("uses {what}"));
            }
            let since = self.over_since.get(&lease).map_or(now, |(since, _)| *since);
            if self.settings.over_lease[class.rank()].is_some_and(|limit| now.since(since) >= limit) {
                self.stop_if_held(&lease, EndReason::OverLease);
            }
        }
        let strangers: BTreeSet<_> = self.gpus.values().flat_map(|gpu| gpu.usage.strangers.keys().cloned()).collect();
        for pod in strangers.difference(&self.strangers.clone()) {
            let message = format!("pod {pod} uses GPU memory that it has not leased");
            self.tell(None, Severity::Warning, "UseWithoutLease", message);
        }
        self.strangers = strangers;
    }
}
