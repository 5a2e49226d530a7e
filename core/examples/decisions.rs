//! How fast the rules decide, with few and with many leases and waiters: prints minimum, median, p99 of each kind of decision, and how they grow.
//! Few lines: five classes and eight sizes; many: 2,000 sizes. It asserts nothing. Run it by `make bench`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark speaks, looks at the clock, and its input is its own"
)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use memboss_core::{
    Class, Closed, Decision, Demand, EndReason, Engine, GpuFacts, GpuModel, GpuUuid, LeaseId, Mib, Moment, NodeFacts,
    NodeName, Policy, Request, Slot, Token,
};

const GIB: u64 = 1024;
/// What a GPU has, in GiB, and how many a node has.
const GPU: u64 = 80;
const PER_NODE: usize = 8;
/// Running leases on each GPU: 10 GiB each.
const LEASES_PER_GPU: usize = 8;

fn request(id: String, class: Class, mib: u64, at: u64) -> Request {
    let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(mib))], ram: Mib::ZERO };
    Request::new(LeaseId::new(id).unwrap(), class, demand, Moment::from_millis(at))
}

/// What the waiters ask, the n-th of them: its class and MiB.
type Asks = fn(u64) -> (Class, u64);

/// Nobody of these may preempt: 10 to 80 GiB.
fn low_ones(n: u64) -> (Class, u64) {
    ([Class::Low, Class::Batch][n as usize % 2], (10 + 10 * (n / 2 % 8)) * GIB)
}

/// Five classes and eight sizes, 10 to 80 GiB.
fn few_lines(n: u64) -> (Class, u64) {
    (Class::ALL[n as usize % 5], (10 + 10 * (n / 5 % 8)) * GIB)
}

/// The same, and none as small as what a lease that goes leaves.
fn large_ones(n: u64) -> (Class, u64) {
    (Class::ALL[n as usize % 5], (24 + 8 * (n / 5 % 8)) * GIB)
}

/// Five classes and 2,000 sizes: as good as nobody asks for the same.
fn many_lines(n: u64) -> (Class, u64) {
    (Class::ALL[n as usize % 5], 10 * GIB + n % 2_000 * 35)
}

struct World {
    engine: Engine,
    now: u64,
    running: VecDeque<LeaseId>,
    asks: Asks,
    asked: u64,
    count: u64,
}

impl World {
    /// As many running leases of that class as waiters; every GPU is full.
    fn full(leases: usize, running: Class, asks: Asks) -> Self {
        let gpus = leases.div_ceil(LEASES_PER_GPU);
        let mut engine = Engine::new(Policy::default(), Token::default());
        for node in 0..gpus.div_ceil(PER_NODE) {
            let in_node = (gpus - node * PER_NODE).min(PER_NODE);
            let gpu = |at: usize| GpuFacts {
                uuid: GpuUuid::new(format!("GPU-{node}-{at}")).unwrap(),
                model: GpuModel::new("H100").unwrap(),
                leasable: Mib::from_mib(GPU * GIB),
                foreign: Mib::ZERO,
                closed: None,
            };
            engine.set_node(&NodeFacts {
                name: NodeName::new(format!("node{node}")).unwrap(),
                gpus: (0..in_node).map(gpu).collect(),
                gpus_unread: false,
                ram: Mib::ZERO,
                ram_closed: None,
                closed: None,
            });
        }
        let mut world = Self { engine, now: 1_000, running: VecDeque::new(), asks, asked: 0, count: 0 };
        for _ in 0..gpus * LEASES_PER_GPU {
            world.submit(running, 10 * GIB);
        }
        world.decide();
        (0..leases).for_each(|_| world.one_more());
        world.decide();
        world
    }

    fn submit(&mut self, class: Class, mib: u64) -> LeaseId {
        self.count += 1;
        self.now += 1;
        let request = request(format!("l{}", self.count), class, mib, self.now);
        let id = request.id.clone();
        self.engine.submit(request).unwrap();
        id
    }

    fn one_more(&mut self) {
        let (class, mib) = (self.asks)(self.asked);
        self.asked += 1;
        self.submit(class, mib);
    }

    fn decide(&mut self) -> Vec<Decision> {
        let decisions = self.engine.decide(Moment::from_millis(self.now));
        for decision in &decisions {
            if let Decision::Grant { lease, .. } = decision {
                self.engine.activate(lease, Moment::from_millis(self.now)).unwrap();
                self.running.push_back(lease.clone());
            }
        }
        decisions
    }

    /// A lease of a class above all running ones, or below all.
    fn arrival(&mut self, class: Class, mib: u64) -> Duration {
        let began = Instant::now();
        let id = self.submit(class, mib);
        self.decide();
        let took = began.elapsed();
        self.running.retain(|other| *other != id);
        self.engine.end(&id, EndReason::Deleted).unwrap();
        self.decide();
        took
    }

    fn release(&mut self) -> Duration {
        let Some(gone) = self.running.pop_front() else { return Duration::ZERO };
        let began = Instant::now();
        self.engine.end(&gone, EndReason::Released).unwrap();
        self.decide();
        let took = began.elapsed();
        self.one_more();
        self.decide();
        took
    }
}

fn show(what: &str, leases: usize, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let median = at(0.5);
    println!("{what:<44} {leases:>7} {:>9.1} {:>9.1} {:>9.1} {:>10.0}", at(0.0), median, at(0.99), 1e6 / median);
    median
}

type Measure = fn(usize) -> Vec<Duration>;

const MEASURES: [(&str, Measure); 7] = [
    ("submit: queued with its reason, few lines", |leases| {
        let mut world = World::full(leases, Class::Low, low_ones);
        (0..2_000).map(|_| world.arrival(Class::Batch, 10 * GIB)).collect()
    }),
    ("submit: granted, few lines", |leases| {
        let mut world = World::full(leases, Class::Urgent, large_ones);
        let gone = world.running.pop_front().unwrap();
        world.engine.end(&gone, EndReason::Released).unwrap();
        world.decide();
        (0..2_000).map(|_| world.arrival(Class::Urgent, 10 * GIB)).collect()
    }),
    ("release: next grant, few lines", |leases| {
        let mut world = World::full(leases, Class::Urgent, few_lines);
        (0..2_000).map(|_| world.release()).collect()
    }),
    ("release: next grant, many lines", |leases| {
        let mut world = World::full(leases, Class::Urgent, many_lines);
        (0..1_000).map(|_| world.release()).collect()
    }),
    ("release: few lines, holders protected", |leases| {
        let mut world = World::full(leases, Class::Low, few_lines);
        (0..200).map(|_| world.release()).collect()
    }),
    ("preemption: victims and claim, few lines", |leases| {
        let mut world = World::full(leases, Class::Low, low_ones);
        world.now += 3_600_000;
        (0..500).map(|_| world.arrival(Class::High, 20 * GIB)).collect()
    }),
    ("drain of a GPU and back", |leases| {
        let mut world = World::full(leases, Class::Urgent, few_lines);
        let gpu = GpuUuid::new("GPU-0-0").unwrap();
        let mut one = || {
            let began = Instant::now();
            world.engine.close_gpu(&gpu, Some(Closed::Degraded)).unwrap();
            world.decide();
            world.engine.close_gpu(&gpu, None).unwrap();
            world.decide();
            began.elapsed()
        };
        (0..500).map(|_| one()).collect()
    }),
];

fn main() {
    println!(
        "{:<44} {:>7} {:>9} {:>9} {:>9} {:>10}",
        "decision", "leases", "min µs", "median µs", "p99 µs", "per second"
    );
    let mut growth = Vec::new();
    for (what, measure) in MEASURES {
        let medians = [10, 1_000, 100_000].map(|leases| show(what, leases, measure(leases)));
        growth.push((what, medians[2] / medians[1]));
    }
    for (what, times) in growth {
        println!("{what}: 100k against 1k leases and waiters: x{times:.2}");
    }
}
