//! The leader's loop: take in what was seen, plan, have it carried out, look again. One task owns the world; writes run beside it, one at a time for each
//! object. It may not decide (`plan.rs` does) nor talk to the API server itself (`writes.rs` does).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::assumed::Assumed;
use crate::heartbeats::Pulse;
use crate::metrics::Figures;
use crate::placeholders::Placeholders;
use crate::plan::{Act, Lately, Planning, plan};
use crate::refusals::Refusals;
use crate::status;
use crate::watch::{Kind, News};
use crate::world::{Key, NodeInfo, Takes, World, key, shown_in_code};
use crate::writes::{Failure, Seen, Writer, Written};

/// News are gathered for so long before it is planned again: a burst costs one plan, not one each.
const GATHER: Duration = Duration::from_millis(10);
/// Nothing happened for so long: plan again all the same, in case something was missed.
const IDLE: Duration = Duration::from_secs(10);
/// A write whose effect was not seen after so long is planned again.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// The place in the queue and other numbers of a waiting lease are written once in so long.
const NUMBERS: Duration = Duration::from_secs(1);
/// A write without an answer for so long is given up; whether it was done is seen by the watch.
const LONGEST_WRITE: Duration = Duration::from_secs(15);
/// So many writes at once.
const WRITES: usize = 64;

/// A write on its way: since when, and which version of the object it was planned on.
#[derive(Debug)]
struct Under {
    since: Instant,
    done: bool,
    version: Option<String>,
}

/// The loop's state.
#[derive(Debug)]
pub struct Brain {
    world: World,
    untold: BTreeSet<Kind>,
    relisted: BTreeMap<Kind, BTreeSet<Key>>,
    under_way: BTreeMap<(&'static str, Key), Under>,
    assumed: Assumed,
    refusals: Refusals,
    told: BTreeMap<Key, Instant>,
    redis_answered: Option<bool>,
    planning: Planning,
    writer: Writer,
    placeholders: Placeholders,
    figures: Figures,
    with_heartbeat: watch::Sender<BTreeSet<String>>,
}

/// The end of one write.
type Done = ((&'static str, Key), Result<Written, Failure>);

impl Brain {
    /// A brain that has seen nothing.
    #[must_use]
    pub fn new(
        planning: Planning,
        writer: Writer,
        placeholders: Placeholders,
        figures: Figures,
        with_heartbeat: watch::Sender<BTreeSet<String>>,
    ) -> Self {
        Self {
            world: World::default(),
            untold: [Kind::Pods, Kind::Nodes, Kind::Memory, Kind::Leases, Kind::RamLeases].into(),
            relisted: BTreeMap::new(),
            under_way: BTreeMap::new(),
            assumed: Assumed::default(),
            refusals: Refusals::default(),
            told: BTreeMap::new(),
            redis_answered: None,
            planning,
            writer,
            placeholders,
            figures,
            with_heartbeat,
        }
    }

    /// Runs until the shutdown.
    pub async fn run(mut self, mut news: mpsc::Receiver<News>, mut pulse: watch::Receiver<Pulse>, shutdown: Shutdown) {
        let (done, mut finished) = mpsc::channel::<Done>(WRITES * 2);
        let mut wake = Instant::now() + IDLE;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(piece) = news.recv() => self.take_in(piece),
                Some((object, outcome)) = finished.recv() => self.written(&object, outcome),
                // Without Redis nobody sends any.
                Ok(()) = pulse.changed() => {
                    let pulse = pulse.borrow_and_update().clone();
                    self.figures.redis(pulse.redis_answers);
                    self.tell_of_redis(pulse.redis_answers);
                    self.world.suspects = pulse.suspects;
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            let gathered = Instant::now() + GATHER;
            while let Ok(more) = tokio::time::timeout_at(gathered, news.recv()).await {
                match more {
                    Some(piece) => self.take_in(piece),
                    None => return,
                }
            }
            while let Ok((object, outcome)) = finished.try_recv() {
                self.written(&object, outcome);
            }
            wake = self.think(&done);
        }
    }

    fn take_in(&mut self, piece: News) {
        match piece {
            News::Pod(pod) => {
                self.seen(Kind::Pods, key(pod.as_ref()));
                self.echo("pod", &key(pod.as_ref()), pod.metadata.resource_version.as_deref());
                let key = key(pod.as_ref());
                self.world.pod(*pod);
                self.assumed.seen_pod(&mut self.world, &key);
            }
            News::Node(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                self.seen(Kind::Nodes, name.clone());
                self.world.nodes.insert(name, NodeInfo::from(node.as_ref()));
            }
            News::Memory(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                self.seen(Kind::Memory, name.clone());
                self.world.memory.insert(name, *node);
            }
            News::Lease(lease) => {
                let key = key(lease.as_ref());
                self.seen(lease.kind().into(), key.clone());
                if let Some(takes) = shown_in_code(&lease) {
                    if takes == Takes::OfItsNode {
                        self.world.in_code.insert(key, *lease);
                    }
                    return;
                }
                self.echo("lease", &key, lease.metadata.resource_version.as_deref());
                self.note_refusal(&key, &lease);
                self.world.leases.insert(key.clone(), *lease);
                self.assumed.seen_lease(&mut self.world, &key);
            }
            News::Gone(Kind::Pods, key) => {
                self.world.no_pod(&key);
                self.assumed.undo(&mut self.world, &key);
            }
            News::Gone(Kind::Nodes, key) => drop(self.world.nodes.remove(&key)),
            News::Gone(Kind::Memory, key) => drop(self.world.memory.remove(&key)),
            News::Gone(Kind::Leases | Kind::RamLeases, key) => self.no_lease(&key),
            News::Unreadable(kind, key) => self.seen(kind, key),
            News::Model(load) => self.placeholders.model(&load),
            News::Closed(closed) => {
                if closed && !self.world.closed {
                    warn!("admission is closed: an uninstall has begun, and no lease begins any more");
                }
                self.world.closed = closed;
            }
            News::Again(kind) => drop(self.relisted.insert(kind, BTreeSet::new())),
            News::Told(kind) => self.told(kind),
        }
    }

    fn no_lease(&mut self, key: &Key) {
        self.refusals.forget(key);
        self.told.remove(key);
        self.world.leases.remove(key);
        self.world.in_code.remove(key);
        self.assumed.undo(&mut self.world, key);
    }

    /// Once when it changes; its first answer is no news.
    fn tell_of_redis(&mut self, answers: bool) {
        if self.redis_answered.replace(answers).is_some_and(|before| before != answers) {
            self.writer.tell_of_redis(answers);
        }
    }

    fn seen(&mut self, kind: Kind, key: Key) {
        if let Some(seen) = self.relisted.get_mut(&kind) {
            seen.insert(key);
        }
    }

    /// A kind is listed whole: what was not among it has gone while nobody looked.
    fn told(&mut self, kind: Kind) {
        self.untold.remove(&kind);
        let Some(seen) = self.relisted.remove(&kind) else { return };
        match kind {
            Kind::Pods => {
                let gone: Vec<_> = self
                    .world
                    .pods
                    .keys()
                    .chain(self.world.usage.keys())
                    .filter(|key| !seen.contains(*key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.world.no_pod(&key);
                    self.assumed.undo(&mut self.world, &key);
                }
            }
            Kind::Nodes => self.world.nodes.retain(|key, _| seen.contains(key)),
            Kind::Memory => self.world.memory.retain(|key, _| seen.contains(key)),
            Kind::Leases | Kind::RamLeases => {
                let all = self.world.leases.iter().chain(&self.world.in_code);
                let of_kind = all.filter(|(_, lease)| Kind::from(lease.kind()) == kind);
                let gone: Vec<Key> = of_kind.map(|(key, _)| key).filter(|key| !seen.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.no_lease(key));
            }
        }
    }

    /// The object is seen in a newer version than a finished write was planned on: what it did is in there.
    fn echo(&mut self, kind: &'static str, key: &Key, version: Option<&str>) {
        let object = (kind, key.clone());
        if self.under_way.get(&object).is_some_and(|under| under.done && under.version.as_deref() != version) {
            self.under_way.remove(&object);
        } else if let Some(under) = self.under_way.get_mut(&object)
            && under.version.as_deref() != version
        {
            // Seen before its end was: nothing more to wait for when it ends.
            under.version = None;
        }
    }

    fn note_refusal(&mut self, key: &Key, lease: &memboss_crds::VramLease) {
        if let Some(answer) = self.refusals.seen(key, lease, Instant::now()) {
            self.figures.not_taken(answer.reason.as_deref().unwrap_or("Unknown"));
            info!(
                lease = key,
                reason = answer.reason,
                message = answer.message,
                "an agent did not take a placement, or took it back"
            );
        }
    }

    fn written(&mut self, object: &(&'static str, Key), outcome: Result<Written, Failure>) {
        if !matches!(outcome, Ok(Written::AsPlanned)) {
            self.assumed.undo(&mut self.world, &object.1);
        }
        match outcome {
            Ok(_) => {
                let echoed = self.under_way.get(object).is_none_or(|under| under.version.is_none());
                if echoed {
                    self.under_way.remove(object);
                } else if let Some(under) = self.under_way.get_mut(object) {
                    under.done = true;
                }
            }
            Err(error) => {
                self.figures.failed_write();
                warn!(
                    error = &error as &dyn std::error::Error,
                    kind = object.0,
                    object = object.1,
                    "a write failed and is planned again"
                );
                // Not at once: whatever is wrong would be asked again and again.
                if let Some(under) = self.under_way.get_mut(object) {
                    under.since = Instant::now() - FORGOTTEN + Duration::from_millis(500);
                    under.done = true;
                }
            }
        }
    }

    /// Plans and hands out what is not under way; when to think again.
    fn think(&mut self, done: &mpsc::Sender<Done>) -> Instant {
        let now = Instant::now();
        let reporting: BTreeSet<String> = self.world.memory.keys().cloned().collect();
        self.with_heartbeat.send_if_modified(|known| std::mem::replace(known, reporting.clone()) != reporting);
        if !self.untold.is_empty() {
            return now + IDLE;
        }
        // One that has not ended is never forgotten: it ends by its own time.
        self.under_way.retain(|_, under| !under.done || now.duration_since(under.since) < FORGOTTEN);
        self.told.retain(|_, at| now.duration_since(*at) < NUMBERS);
        let lately = Lately {
            refused: self.refusals.paused(now),
            shunned: self.refusals.shunned(now),
            told: self.told.keys().cloned().collect(),
        };
        let time = Timestamp::now();
        let began = std::time::Instant::now();
        let (acts, wake) = plan(&self.world, &self.planning, &lately, time);
        self.figures.planned(&self.world, began.elapsed());
        let mut next = now + IDLE;
        for act in acts {
            let object = act.object();
            if self.under_way.contains_key(&object) {
                continue;
            }
            if self.under_way.values().filter(|under| !under.done).count() >= WRITES {
                break;
            }
            self.carry_out(act, object, done);
        }
        if let Some(change) = self.refusals.next_change(now) {
            next = next.min(change);
        }
        if let Some(told) = self.told.values().min() {
            next = next.min(*told + NUMBERS);
        }
        if let Some(soonest) =
            self.under_way.values().filter(|under| under.done).map(|under| under.since + FORGOTTEN).min()
        {
            next = next.min(soonest);
        }
        if let Some(wake) = wake {
            let ahead = wake.since(crate::picture::moment(Some(time))).millis().max(50);
            next = next.min(now + Duration::from_millis(ahead));
        }
        next
    }

    fn carry_out(&mut self, act: Act, object: (&'static str, Key), done: &mpsc::Sender<Done>) {
        debug!(?act, "acting");
        self.figures.acted(&act);
        if let Act::Say(key, said) = &act {
            self.told.insert(key.clone(), Instant::now());
            if let Some((class, waited)) = self.world.leases.get(key).and_then(|lease| status::first_wait(lease, said))
            {
                self.figures.waited(class, waited);
            }
        }
        let seen = Seen::of(&self.world, &act);
        match &act {
            Act::Place(key, placement, _) => self.assumed.placed(&mut self.world, key, placement),
            Act::OpenGate(key, _) => self.assumed.opened(&mut self.world, key),
            _ => {}
        }
        let version = match object.0 {
            "pod" => self.world.pods.get(&object.1).and_then(|pod| pod.metadata.resource_version.clone()),
            _ => self.world.leases.get(&object.1).and_then(|lease| lease.metadata.resource_version.clone()),
        };
        // A new object has no version yet: its first sight is the echo.
        let version = version.or_else(|| Some(String::new()));
        self.under_way.insert(object.clone(), Under { since: Instant::now(), done: false, version });
        let (writer, done) = (self.writer.clone(), done.clone());
        tokio::spawn(async move {
            let written = tokio::time::timeout(LONGEST_WRITE, writer.carry_out(act, seen)).await;
            let outcome = written.map_or(Err(Failure::Late), |outcome| outcome.map_err(Failure::from));
            // Nobody listens any more only when all of it ends.
            drop(done.send((object, outcome)).await);
        });
    }
}
