//! How fast the rules decide, with few and with many leases and waiters: prints minimum, median, p99 of each kind of decision, and how they grow.
//! It asserts nothing. Run it by `make bench`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark speaks, looks at the clock, and its input is its own"
)]

use std::time::{Duration, Instant};

use memboss_core::{
    Class, Decision, Demand, EndReason, Engine, GpuFacts, GpuModel, GpuUuid, LeaseId, Mib, Moment, NodeFacts, NodeName,
    Policy, Request, Slot, Token,
};

const GIB: u64 = 1024;
/// What a GPU has, in GiB, and how many a node has.
const GPU: u64 = 80;
const PER_NODE: usize = 8;
/// Running leases on each GPU: 10 GiB each.
const LEASES_PER_GPU: usize = 8;

fn request(id: String, class: Class, gib: u64, at: u64) -> Request {
    let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(gib * GIB))], ram: Mib::ZERO };
    Request::new(LeaseId::new(id).unwrap(), class, demand, Moment::from_millis(at))
}

struct World {
    engine: Engine,
    now: u64,
    running: Vec<LeaseId>,
    count: u64,
}

impl World {
    /// As many running leases as waiters; every GPU is full.
    fn full(leases: usize) -> Self {
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
                ram: Mib::ZERO,
                closed: None,
            });
        }
        let mut world = Self { engine, now: 1_000, running: Vec::new(), count: 0 };
        for _ in 0..gpus * LEASES_PER_GPU {
            let id = world.submit(Class::Low, 10);
            world.running.push(id);
        }
        world.decide();
        let ids = world.running.clone();
        for id in ids {
            world.engine.activate(&id, Moment::from_millis(world.now)).unwrap();
        }
        // Waiters of five sizes in two classes: none of them may preempt LOW but by HIGH, which the last measurement uses alone.
        for n in 0..leases {
            let class = if n % 2 == 0 { Class::Low } else { Class::Batch };
            world.submit(class, 10 + 10 * (n as u64 % 5));
        }
        world.decide();
        world
    }

    fn submit(&mut self, class: Class, gib: u64) -> LeaseId {
        self.count += 1;
        self.now += 1;
        let request = request(format!("l{}", self.count), class, gib, self.now);
        let id = request.id.clone();
        self.engine.submit(request).unwrap();
        id
    }

    fn decide(&mut self) -> Vec<Decision> {
        self.engine.decide(Moment::from_millis(self.now))
    }
}

struct Times(Vec<Duration>);

impl Times {
    fn show(&mut self, what: &str, leases: usize) -> f64 {
        self.0.sort_unstable();
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        let median = at(0.5);
        println!("{what:<34} {leases:>8} {:>10.1} {:>10.1} {:>10.1} {:>12.0}", at(0.0), median, at(0.99), 1e6 / median);
        median
    }
}

fn measure(times: usize, mut one: impl FnMut() -> Duration) -> Times {
    Times((0..times).map(|_| one()).collect())
}

fn main() {
    println!(
        "{:<34} {:>8} {:>10} {:>10} {:>10} {:>12}",
        "decision", "leases", "min µs", "median µs", "p99 µs", "per second"
    );
    let mut medians: Vec<Vec<f64>> = vec![Vec::new(); 3];
    for leases in [10, 1_000, 100_000] {
        let mut world = World::full(leases);
        let mut arrival = measure(2_000, || {
            let began = Instant::now();
            let id = world.submit(Class::Batch, 10);
            world.decide();
            let took = began.elapsed();
            world.engine.end(&id, EndReason::Deleted).unwrap();
            world.decide();
            took
        });
        medians[0].push(arrival.show("arrival: queued with its reason", leases));
        let mut release = measure(2_000, || {
            let gone = world.running.remove(0);
            let began = Instant::now();
            world.engine.end(&gone, EndReason::Released).unwrap();
            let decisions = world.decide();
            let took = began.elapsed();
            for decision in decisions {
                if let Decision::Grant { lease, .. } = decision {
                    world.engine.activate(&lease, Moment::from_millis(world.now)).unwrap();
                    world.running.push(lease);
                }
            }
            world.submit(Class::Low, 10);
            world.decide();
            took
        });
        medians[1].push(release.show("release: next grant", leases));
        world.now += 3_600_000;
        let mut preemption = measure(200, || {
            let began = Instant::now();
            let id = world.submit(Class::High, 20);
            let decisions = world.decide();
            let took = began.elapsed();
            assert!(
                decisions.iter().any(|d| matches!(d, Decision::Claim { lease, .. } if *lease == id)),
                "it preempts"
            );
            // Everything back as it was, for the next one.
            world.engine.end(&id, EndReason::Deleted).unwrap();
            world.decide();
            took
        });
        medians[2].push(preemption.show("preemption: victims and claim", leases));
    }
    for (what, medians) in ["arrival", "release", "preemption"].iter().zip(&medians) {
        println!("{what}: 100k against 1k leases and waiters: x{:.2}", medians[2] / medians[1]);
    }
}
