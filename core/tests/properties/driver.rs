//! Random worlds and random lives in them: what can happen, and how it is done to an engine. It may not judge what comes of it.

use memboss_core::{
    Class, Closed, Decision, Demand, DrainScope, EndReason, Engine, GpuSelector, GpuShare, Layout, Mib, Moment,
    NodeFacts, Percent, Phase, Placement, Policy, Request, Slot, Span, Token,
};
use proptest::prelude::*;

use crate::world::{at, engine, gpu, id, mib, ram_node};

/// All sizes are multiples of this, so that shares are as well.
pub const STEP: u64 = 256;

#[derive(Clone, Debug)]
pub struct Ask {
    class: usize,
    slots: Vec<(u64, Option<u64>)>,
    ram: u64,
    spread: bool,
    shrinks: bool,
    wish: Option<usize>,
    waited: u64,
    preempted: u32,
}

#[derive(Clone, Debug)]
pub enum Event {
    Submit(Ask),
    Again(usize),
    Activate(usize),
    Stop(usize),
    End(usize),
    Shrink(usize, u64),
    Offload(usize, u64),
    Requeue(usize),
    Revoke(usize),
    Foreign(usize, u64),
    Close(usize, bool),
    AddNode(Vec<u64>, u64),
    RemoveNode(usize),
    /// Somebody who decided elsewhere places a new lease, or one that waits here, on those GPUs.
    Admit(Ask, usize, bool),
    AdmitWaiting(usize, usize, bool),
    Drain(usize, bool),
    Open(usize),
    Ram(usize, u64),
    /// The engine is built again from what was written down.
    Restart,
    Pass(u64),
}

/// The nodes of a world: the sizes of each one's GPUs, and its RAM.
pub type Nodes = Vec<(Vec<u64>, u64)>;

pub fn nodes() -> impl Strategy<Value = Nodes> {
    prop::collection::vec((prop::collection::vec(4..=12u64, 1..=3), 0..=10u64), 1..=3)
}

pub fn ask() -> impl Strategy<Value = Ask> {
    let share = prop::option::weighted(0.15, prop::sample::select(vec![25u64, 50, 75]));
    let slot = (1..=10u64, share).prop_map(|(size, share)| if share.is_some() { (0, share) } else { (size, None) });
    let slots = prop_oneof![8 => prop::collection::vec(slot.clone(), 1), 3 => prop::collection::vec(slot, 2), 1 => Just(vec![])];
    let ram = prop_oneof![3 => Just(0), 2 => 1..=6u64];
    let wish = prop::option::weighted(0.15, 0..9usize);
    (0..5usize, slots, ram, any::<bool>(), any::<bool>(), wish, 0..900u64, 0..5u32).prop_map(
        |(class, slots, ram, spread, shrinks, wish, waited, preempted)| {
            let ram = if slots.is_empty() { ram.max(1) } else { ram };
            Ask { class, slots, ram, spread, shrinks, wish, waited, preempted }
        },
    )
}

pub fn event() -> impl Strategy<Value = Event> {
    let whom = || 0..64usize;
    prop_oneof![
        10 => ask().prop_map(Event::Submit),
        1 => whom().prop_map(Event::Again),
        8 => whom().prop_map(Event::Activate),
        2 => whom().prop_map(Event::Stop),
        5 => whom().prop_map(Event::End),
        2 => (whom(), 0..6u64).prop_map(|(who, by)| Event::Shrink(who, by)),
        2 => (whom(), 0..6u64).prop_map(|(who, by)| Event::Offload(who, by)),
        1 => whom().prop_map(Event::Requeue),
        1 => whom().prop_map(Event::Revoke),
        1 => (whom(), 0..6u64).prop_map(|(at, size)| Event::Foreign(at, size)),
        2 => (whom(), any::<bool>()).prop_map(|(at, close)| Event::Close(at, close)),
        1 => (prop::collection::vec(4..=12u64, 1..=3), 0..=10u64).prop_map(|(gpus, ram)| Event::AddNode(gpus, ram)),
        1 => whom().prop_map(Event::RemoveNode),
        3 => (ask(), whom(), any::<bool>()).prop_map(|(ask, at, preempts)| Event::Admit(ask, at, preempts)),
        1 => (whom(), whom(), any::<bool>()).prop_map(|(who, at, preempts)| Event::AdmitWaiting(who, at, preempts)),
        1 => (whom(), any::<bool>()).prop_map(|(at, whole)| Event::Drain(at, whole)),
        1 => whom().prop_map(Event::Open),
        1 => (whom(), 0..=10u64).prop_map(|(at, size)| Event::Ram(at, size)),
        1 => Just(Event::Restart),
        4 => (1..400u64).prop_map(Event::Pass),
    ]
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..30)
}

/// One event, and what was decided after it.
pub struct Step<'a> {
    pub event: &'a Event,
    /// Before the event.
    pub before: &'a Engine,
    /// After the event, before the decision.
    pub between: &'a Engine,
    pub decisions: &'a [Decision],
    pub now: Moment,
}

pub struct World {
    pub engine: Engine,
    pub facts: Vec<NodeFacts>,
    pub secs: u64,
    named: u64,
}

impl World {
    pub fn new(nodes: &Nodes) -> Self {
        let mut world = Self { engine: engine(&[]), facts: Vec::new(), secs: 1000, named: 0 };
        nodes.iter().for_each(|(gpus, ram)| world.add_node(gpus, *ram));
        world
    }

    pub fn now(&self) -> Moment {
        at(self.secs)
    }

    /// Does all of it, and shows each step to `judge`.
    pub fn live(
        &mut self,
        events: &[Event],
        judge: &mut dyn FnMut(&World, &Step<'_>) -> Result<(), TestCaseError>,
    ) -> Result<(), TestCaseError> {
        for event in events {
            let before = self.engine.clone();
            self.happen(event);
            let between = self.engine.clone();
            let decisions = self.engine.decide(self.now());
            let step = Step { event, before: &before, between: &between, decisions: &decisions, now: self.now() };
            judge(self, &step)?;
        }
        Ok(())
    }

    pub fn request(&mut self, ask: &Ask) -> Request {
        self.named += 1;
        let slot = |(size, share): &(u64, Option<u64>)| Slot {
            fixed: mib(size * STEP),
            share: share.map(|percent| Percent::new(percent).unwrap()),
        };
        let demand = Demand { slots: ask.slots.iter().map(slot).collect(), ram: mib(ask.ram * STEP) };
        let name = id(&format!("l{}", self.named));
        let mut request = Request::new(name, Class::ALL[ask.class], demand, at(self.secs - ask.waited));
        request.layout = if ask.spread { Layout::Spread } else { Layout::Pack };
        request.flexibility.shrinks = ask.shrinks;
        request.preempted = ask.preempted;
        request.protection = ask.waited.is_multiple_of(3).then_some(Span::ZERO);
        let wish = ask.wish.and_then(|at| self.facts.iter().flat_map(|n| &n.gpus).nth(at)).map(|g| g.uuid.clone());
        request.gpus = GpuSelector { models: vec![], uuids: wish.into_iter().collect() };
        request
    }

    fn add_node(&mut self, gpus: &[u64], ram: u64) {
        self.named += 1;
        let name = |at| format!("g{}-{at}", self.named);
        let gpus: Vec<_> = gpus.iter().enumerate().map(|(at, size)| gpu(&name(at), size * STEP)).collect();
        self.facts.push(ram_node(&format!("n{}", self.named), &gpus, ram * STEP));
        self.engine.set_node(&self.facts[self.facts.len() - 1]);
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now();
        let leases = self.engine.leases();
        let pick = |who: &usize| leases.get(who % leases.len().max(1));
        match event {
            Event::Submit(ask) => {
                let request = self.request(ask);
                self.engine.submit(request).unwrap();
            }
            Event::AddNode(gpus, ram) if self.facts.len() < 3 => self.add_node(gpus, *ram),
            Event::AddNode(..) => {}
            Event::RemoveNode(which) if self.facts.len() > 1 => {
                let gone = self.facts.remove(which % self.facts.len());
                for lease in self.engine.remove_node(&gone.name) {
                    self.engine.end(&lease, EndReason::NodeLost).unwrap();
                }
            }
            Event::RemoveNode(_) => {}
            Event::Admit(ask, at, preempts) => {
                let request = self.request(ask);
                self.admit(request, *at, *preempts);
            }
            Event::AdmitWaiting(who, at, preempts) => {
                let waiting = pick(who).filter(|l| l.phase == Phase::Waiting).and_then(|l| self.engine.request(&l.id));
                waiting.into_iter().for_each(|request| self.admit(request, *at, *preempts));
            }
            Event::Drain(which, whole) => self.drain(*which, *whole),
            Event::Open(which) => self.open(which % self.facts.len()),
            Event::Ram(which, size) => {
                let which = which % self.facts.len();
                self.facts[which].ram = mib(size * STEP);
                self.engine.set_node(&self.facts[which]);
            }
            Event::Restart => self.restart(),
            Event::Pass(secs) => self.secs += secs,
            Event::Foreign(which, size) => self.change_gpu(*which, |gpu| gpu.foreign = mib(size * STEP)),
            Event::Close(which, close) => {
                self.change_gpu(*which, |gpu| gpu.closed = close.then_some(Closed::Degraded));
            }
            Event::Again(who) => drop(pick(who).map(|l| self.engine.submit(self.engine.request(&l.id).unwrap()))),
            Event::Activate(who) => drop(pick(who).map(|l| self.engine.activate(&l.id, now))),
            Event::Stop(who) => drop(pick(who).map(|l| self.engine.stop(&l.id, EndReason::Released))),
            Event::End(who) => drop(pick(who).map(|l| self.engine.end(&l.id, EndReason::Exited))),
            Event::Requeue(who) => drop(pick(who).map(|l| self.engine.requeue(&l.id))),
            Event::Revoke(who) => drop(pick(who).map(|l| self.engine.revoke(&l.id, EndReason::Expired, now))),
            Event::Shrink(who, by) | Event::Offload(who, by) => {
                let Some((lease, placement)) = pick(who).and_then(|l| Some((l, l.placement.clone()?))) else { return };
                if lease.phase == Phase::Waiting {
                    return;
                }
                let memory: Vec<Mib> = placement.gpus.iter().map(|s| s.memory.minus(mib(by * STEP))).collect();
                if matches!(event, Event::Shrink(..)) {
                    self.engine.shrink(&lease.id, &memory, placement.ram.minus(mib(by * STEP))).unwrap();
                } else {
                    drop(self.engine.offload(&lease.id, &memory, mib(by * STEP)));
                }
            }
        }
    }

    /// On the node and GPUs that the number picks, whatever is there.
    fn admit(&mut self, request: Request, at: usize, preempts: bool) {
        let node = &self.facts[at % self.facts.len()];
        let count = request.demand.slots.len().min(node.gpus.len());
        let gpus = node.gpus.iter().cycle().skip(at / 3 % node.gpus.len()).take(count).zip(&request.demand.slots);
        let gpus = gpus.map(|(gpu, slot)| GpuShare { uuid: gpu.uuid.clone(), memory: slot.on(gpu.leasable) });
        let placement = Placement { node: node.name.clone(), gpus: gpus.collect(), ram: request.demand.ram };
        drop(self.engine.admit(request, &placement, preempts, self.now()));
    }

    fn drain(&mut self, which: usize, whole: bool) {
        let node = which % self.facts.len();
        let facts = &mut self.facts[node];
        let scope = if whole {
            facts.closed = Some(Closed::Draining);
            DrainScope::Node(facts.name.clone())
        } else {
            let gpu = which % facts.gpus.len();
            DrainScope::Gpu(facts.gpus[gpu].uuid.clone())
        };
        self.engine.drain(&scope, at(self.secs)).unwrap();
    }

    fn open(&mut self, node: usize) {
        let facts = &mut self.facts[node];
        facts.closed = None;
        facts.gpus.iter_mut().for_each(|gpu| gpu.closed = None);
        for gpu in &facts.gpus {
            self.engine.close_gpu(&gpu.uuid, None).unwrap();
        }
        self.engine.close_node(&facts.name, None).unwrap();
        self.engine.set_node(&self.facts[node]);
    }

    fn restart(&mut self) {
        let records = self.engine.records();
        let epoch = self.engine.last_token().epoch + 1;
        self.engine = Engine::new(Policy::default(), Token { epoch, sequence: 0 });
        self.facts.iter().for_each(|facts| self.engine.set_node(facts));
        records.into_iter().for_each(|record| self.engine.adopt(record).unwrap());
    }

    fn change_gpu(&mut self, which: usize, change: impl FnOnce(&mut memboss_core::GpuFacts)) {
        let which = which % self.facts.len();
        let gpus = self.facts[which].gpus.len();
        change(&mut self.facts[which].gpus[which % gpus]);
        self.engine.set_node(&self.facts[which]);
    }

    /// One more that asks for little.
    pub fn happen_small(&mut self, class: Class) {
        let rank = Class::ALL.iter().position(|other| *other == class).unwrap();
        let slots = vec![(1 + self.secs / 10 % 2, None)];
        let small =
            Ask { class: rank, slots, ram: 0, spread: false, shrinks: false, wish: None, waited: 0, preempted: 0 };
        let request = self.request(&small);
        self.engine.submit(request).unwrap();
    }

    /// Opens every GPU and takes away what others use.
    pub fn heal(&mut self) {
        for node in 0..self.facts.len() {
            self.facts[node].gpus.iter_mut().for_each(|gpu| gpu.foreign = Mib::ZERO);
            self.open(node);
        }
    }
}
