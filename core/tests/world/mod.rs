//! Builders that the tests of the rules share: a small world of nodes and GPUs, and what is done in it. It may not assert anything about the rules.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part of it")]

use memboss_core::{
    Class, Closed, Decision, Demand, Engine, GpuFacts, GpuModel, GpuShare, GpuUuid, LeaseId, LeaseRecord, Mib, Moment,
    NodeFacts, NodeName, Percent, Phase, Placement, Policy, Request, Slot, Span, Token,
};

pub fn mib(n: u64) -> Mib {
    Mib::from_mib(n)
}

pub fn at(secs: u64) -> Moment {
    Moment::from_millis(secs * 1000)
}

pub fn id(name: &str) -> LeaseId {
    LeaseId::new(name).unwrap()
}

pub fn uuid(name: &str) -> GpuUuid {
    GpuUuid::new(name).unwrap()
}

pub fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn gpu(name: &str, leasable: u64) -> GpuFacts {
    model_gpu(name, "NVIDIA-A100", leasable)
}

pub fn model_gpu(name: &str, model: &str, leasable: u64) -> GpuFacts {
    GpuFacts {
        uuid: uuid(name),
        model: GpuModel::from_product(model).unwrap(),
        leasable: mib(leasable),
        foreign: Mib::ZERO,
        closed: None,
    }
}

pub fn closed_gpu(name: &str, leasable: u64, why: Closed) -> GpuFacts {
    GpuFacts { closed: Some(why), ..gpu(name, leasable) }
}

pub fn node(name: &str, gpus: &[GpuFacts]) -> NodeFacts {
    NodeFacts {
        name: node_name(name),
        gpus: gpus.to_vec(),
        gpus_unread: false,
        ram: mib(1_000_000),
        ram_closed: None,
        closed: None,
    }
}

/// A node with that much RAM.
pub fn ram_node(name: &str, gpus: &[GpuFacts], ram: u64) -> NodeFacts {
    NodeFacts { ram: mib(ram), ..node(name, gpus) }
}

pub fn demand(slots: &[u64], ram: u64) -> Demand {
    Demand { slots: slots.iter().map(|n| Slot::fixed(mib(*n))).collect(), ram: mib(ram) }
}

pub fn share(percent: u64) -> Slot {
    Slot { fixed: Mib::ZERO, share: Some(Percent::new(percent).unwrap()) }
}

/// A request for one slot, waiting since `enqueued` seconds.
pub fn ask(name: &str, class: Class, need: u64, enqueued: u64) -> Request {
    Request::new(id(name), class, demand(&[need], 0), at(enqueued))
}

pub fn ask_for(name: &str, class: Class, demand: Demand, enqueued: u64) -> Request {
    Request::new(id(name), class, demand, at(enqueued))
}

pub fn flexible(mut request: Request) -> Request {
    request.flexibility.shrinks = true;
    request
}

pub fn engine(nodes: &[NodeFacts]) -> Engine {
    with_policy(nodes, Policy::default())
}

pub fn with_policy(nodes: &[NodeFacts], policy: Policy) -> Engine {
    let mut engine = Engine::new(policy, Token { epoch: 1, sequence: 0 });
    nodes.iter().for_each(|facts| engine.set_node(facts));
    engine
}

pub fn unprotected() -> Policy {
    Policy { protection: [Span::ZERO; 5], ..Policy::default() }
}

/// One node `n` with one GPU `g` of that size, nobody protected.
pub fn one_gpu(leasable: u64) -> Engine {
    with_policy(&[node("n", &[gpu("g", leasable)])], unprotected())
}

pub fn place(node: &str, gpus: &[(&str, u64)]) -> Placement {
    let gpus = gpus.iter().map(|(name, memory)| GpuShare { uuid: uuid(name), memory: mib(*memory) }).collect();
    Placement { node: node_name(node), gpus, ram: Mib::ZERO }
}

/// Takes a lease in as a fact, active since that second.
pub fn adopt_active(engine: &mut Engine, request: Request, placement: Placement, since: u64) {
    let token = Token { epoch: 1, sequence: engine.last_token().sequence + 1 };
    let phase = Phase::Active { since: at(since) };
    engine.adopt(LeaseRecord { request, phase, placement: Some(placement), token }).unwrap();
}

/// An active lease of one slot.
pub fn hold(engine: &mut Engine, request: Request, gpu: &str, since: u64) {
    let node = engine.gpus().into_iter().find(|view| view.uuid == uuid(gpu)).unwrap().node;
    let memory = request.demand.slots[0].fixed.mib();
    adopt_active(engine, request, place(node.as_str(), &[(gpu, memory)]), since);
}

/// Takes the request in and decides.
pub fn submit(engine: &mut Engine, request: Request, now: u64) -> Vec<Decision> {
    engine.submit(request).unwrap();
    engine.decide(at(now))
}

/// Submits, expects a grant, and lets its holder come.
pub fn run(engine: &mut Engine, request: Request, now: u64) {
    let name = request.id.clone();
    let decisions = submit(engine, request, now);
    assert!(granted(&decisions).contains(&name.to_string()), "{name} was to be granted: {decisions:?}");
    engine.activate(&name, at(now)).unwrap();
}

pub fn granted(decisions: &[Decision]) -> Vec<String> {
    decisions
        .iter()
        .filter_map(|d| if let Decision::Grant { lease, .. } = d { Some(lease.to_string()) } else { None })
        .collect()
}

pub fn noticed(decisions: &[Decision]) -> Vec<String> {
    decisions
        .iter()
        .filter_map(|d| if let Decision::Notice { lease, .. } = d { Some(lease.to_string()) } else { None })
        .collect()
}

pub fn spared(decisions: &[Decision]) -> Vec<String> {
    decisions
        .iter()
        .filter_map(|d| if let Decision::Spare { lease } = d { Some(lease.to_string()) } else { None })
        .collect()
}

pub fn stopped(decisions: &[Decision]) -> Vec<String> {
    decisions
        .iter()
        .filter_map(|d| if let Decision::Stop { lease, .. } = d { Some(lease.to_string()) } else { None })
        .collect()
}

pub fn claimed(decisions: &[Decision]) -> Vec<(String, Vec<String>)> {
    let names = |victims: &[LeaseId]| victims.iter().map(ToString::to_string).collect();
    let claim = |d: &Decision| match d {
        Decision::Claim { lease, victims, .. } => Some((lease.to_string(), names(victims))),
        _ => None,
    };
    decisions.iter().filter_map(claim).collect()
}

/// The GPUs a lease has or claims, in slot order.
pub fn gpus_of(engine: &Engine, name: &str) -> Vec<String> {
    let placement = engine.lease(&id(name)).unwrap().placement;
    placement.into_iter().flat_map(|p| p.gpus).map(|share| share.uuid.to_string()).collect()
}

pub fn phase(engine: &Engine, name: &str) -> &'static str {
    engine.lease(&id(name)).unwrap().phase.name()
}

pub fn why(engine: &Engine, name: &str) -> &'static str {
    engine.lease(&id(name)).unwrap().why.unwrap().name()
}

pub fn free(engine: &Engine, name: &str) -> u64 {
    engine.gpus().into_iter().find(|view| view.uuid == uuid(name)).unwrap().free.mib()
}
