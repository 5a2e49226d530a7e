//! The service `Leases`: for processes that lease in code. It reads requests into the words of the rules and tells what becomes of a lease; it decides
//! nothing, and believes nothing that a caller says of itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use memboss_agent_api::v1;
use memboss_agent_api::v1::leases_server::Leases;
use memboss_core::{
    Class, Demand, EndReason, Flexibility, Forecast, GpuSelector, GpuShare, GpuUuid, Layout, LeaseId, LeaseView, Mib,
    Moment, Percent, Phase, Placement, Request as Wanted, Slot, Span,
};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status};

use super::veil::Veil;
use super::{Desk, ending, peer, status};
use crate::node::clients::{ClientInput, Listener, Told, Wish};
use crate::node::view::{Snapshot, notice_id};
use crate::node::{Ask, Denied, GiveBack, Input, RamWish};
use crate::probes::clock;
use crate::probes::pidfd::Sentinels;
use crate::probes::processes::{Caller, PodUid};

/// A listener that lets so much lie is one that does not listen.
const UNHEARD: usize = 64;

pub(super) struct Service {
    pub(super) desk: Desk,
    pub(super) sentinels: Sentinels,
    pub(super) shutdown: Shutdown,
    pub(super) connections: AtomicU64,
}

/// No state of the machine is told more often.
const PACE: Duration = Duration::from_millis(250);

type StatusStream = Pin<Box<dyn Stream<Item = Result<v1::StatusResponse, Status>> + Send>>;
type EventStream = Pin<Box<dyn Stream<Item = Result<v1::LeaseEvent, Status>> + Send>>;

/// A stream that somebody listens to: the node's task is told when it breaks, however that happened.
struct Connection {
    desk: Desk,
    lease: LeaseId,
    number: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (inputs, lease, connection) = (self.desk.inputs.clone(), self.lease.clone(), self.number);
        tokio::spawn(async move { inputs.send(Input::Client(ClientInput::Broke { lease, connection })).await });
    }
}

#[tonic::async_trait]
impl Leases for Service {
    type AcquireStream = EventStream;
    type ResumeStream = EventStream;

    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<EventStream>, Status> {
        let caller = self.caller(&request)?;
        let wish = Box::new(wish(request.into_inner())?);
        let (listener, events) = self.listener();
        let (number, secret) = (listener.connection, fresh_secret());
        let accepted = self.ask(|reply| ClientInput::Acquire { caller, wish, secret, listener, reply }).await?;
        Ok(Response::new(self.stream(accepted.lease, number, accepted.secret, events)))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<EventStream>, Status> {
        let caller = self.caller(&request)?;
        let v1::ResumeRequest { lease, secret } = request.into_inner();
        let (listener, events) = self.listener();
        let number = listener.connection;
        let lease = self.ask(|reply| ClientInput::Resume { caller, lease, secret, listener, reply }).await?;
        Ok(Response::new(self.stream(lease, number, String::new(), events)))
    }

    async fn renew(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let caller = self.caller(&request)?;
        let lease = request.into_inner().lease;
        let told = self.ask(|reply| ClientInput::Renew { caller, lease, reply }).await?;
        Ok(Response::new(event(&told, String::new())))
    }

    async fn release(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let caller = self.caller(&request)?;
        let lease = request.into_inner().lease;
        self.ask(|reply| ClientInput::Release { caller, lease, reply }).await?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn dry_run(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::DryRunResponse>, Status> {
        let caller = self.caller(&request)?;
        let pod = caller.pod.clone();
        let wish = Box::new(wish(request.into_inner())?);
        let forecast = self.ask(|reply| ClientInput::DryRun { caller, wish, reply }).await?;
        let mut told = outlook(&forecast);
        let snapshot = self.desk.known()?;
        let veil = Veil::new(pod.as_ref(), &snapshot);
        told.victims.iter_mut().for_each(|victim| veil.text(victim));
        self.number(&mut told.gpus);
        Ok(Response::new(told))
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let caller = self.caller(&request)?;
        let v1::ResizeRequest { lease, memory_mib, ram_mib, notice_id: notice } = request.into_inner();
        let ram = ram_mib.map_or(RamWish::Same, |ram| RamWish::Down(Mib::from_mib(ram)));
        let memory = memory_mib.into_iter().map(Mib::from_mib).collect();
        self.give_back(caller, lease, GiveBack { memory, ram, notice }).await
    }

    async fn r#move(&self, request: Request<v1::MoveRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let caller = self.caller(&request)?;
        let v1::MoveRequest { lease, memory_mib, more_ram_mib, notice_id: notice } = request.into_inner();
        let ram = RamWish::More(Mib::from_mib(more_ram_mib));
        let memory = memory_mib.into_iter().map(Mib::from_mib).collect();
        self.give_back(caller, lease, GiveBack { memory, ram, notice }).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let pod = self.caller(&request)?.pod;
        Ok(Response::new(seen_by(pod.as_ref(), &*self.desk.known()?)))
    }

    type WatchStatusStream = StatusStream;

    async fn watch_status(&self, request: Request<v1::StatusRequest>) -> Result<Response<StatusStream>, Status> {
        let pod = self.caller(&request)?.pod;
        let mut before: Option<Arc<Snapshot>> = None;
        let changes = WatchStream::new(self.desk.snapshots.clone()).filter_map(move |snapshot| {
            let news = snapshot.is_known() && before.as_ref().is_none_or(|before| !before.shows_the_same(&snapshot));
            if news {
                before = Some(snapshot.clone());
            }
            std::future::ready(news.then_some(snapshot))
        });
        let paced = tokio_stream::StreamExt::throttle(changes, PACE);
        let told = paced.map(move |snapshot| Ok(seen_by(pod.as_ref(), &snapshot)));
        Ok(Response::new(Box::pin(told.take_until(self.shutdown.clone().cancelled_owned()))))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let pod = self.caller(&request)?.pod;
        let lease = request.into_inner().lease;
        let snapshot = self.desk.known()?;
        let veil = Veil::new(pod.as_ref(), &snapshot);
        if !veil.shows_name(&snapshot, &lease) {
            return Err(Status::not_found(format!("no lease {lease} is known here")));
        }
        let mut lines = super::node_service::ask(&self.desk, |reply| Ask::Explain { lease, reply }).await?;
        lines.iter_mut().for_each(|line| veil.text(line));
        Ok(Response::new(v1::ExplainResponse { lines }))
    }
}

/// The machine as that pod may see it; all of it for whoever is in none.
fn seen_by(pod: Option<&PodUid>, snapshot: &Snapshot) -> v1::StatusResponse {
    let veil = Veil::new(pod, snapshot);
    let now = clock::now();
    let leases = snapshot.leases.iter().filter(|(_, seen)| veil.shows(seen)).map(|(id, seen)| {
        let mut shown = super::message::lease(id, seen, now);
        veil.lease(&mut shown);
        shown
    });
    v1::StatusResponse { leases: leases.collect(), ..super::message::figures(snapshot) }
}

impl Service {
    /// Who calls; its end is noticed from now on.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = peer::caller(request.extensions(), &self.desk.proc_root)?;
        self.sentinels.watch(caller.process);
        Ok(caller)
    }

    fn listener(&self) -> (Listener, mpsc::Receiver<Told>) {
        let (events, heard) = mpsc::channel(UNHEARD);
        (Listener { connection: self.connections.fetch_add(1, Ordering::Relaxed), events }, heard)
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Denied>>) -> ClientInput) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.desk.inputs.send(Input::Client(make(reply))).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?.map_err(|denied| status(&denied))
    }

    async fn give_back(
        &self,
        caller: Caller,
        lease: String,
        what: GiveBack,
    ) -> Result<Response<v1::LeaseEvent>, Status> {
        let pod = caller.pod.clone();
        let lease = self.ask(|reply| ClientInput::GiveBack { caller, lease, what, reply }).await?;
        let snapshot = self.desk.known()?;
        let seen = snapshot.leases.get(&lease).ok_or_else(|| Status::not_found(format!("lease {lease} is over")))?;
        let mut shown = super::message::lease(&lease, seen, clock::now());
        Veil::new(pod.as_ref(), &snapshot).lease(&mut shown);
        Ok(Response::new(v1::LeaseEvent { lease: Some(shown), queue: None, secret: String::new() }))
    }

    /// Adds the numbers that GPUs have now.
    fn number(&self, shares: &mut [v1::GpuShare]) {
        let snapshot = self.desk.snapshots.borrow();
        for share in shares {
            let gpu = snapshot.gpus.iter().find(|gpu| gpu.uuid.as_str() == share.uuid);
            share.index = gpu.map_or(0, |gpu| gpu.index);
        }
    }

    fn stream(&self, lease: LeaseId, number: u64, secret: String, events: mpsc::Receiver<Told>) -> EventStream {
        let connection = Connection { desk: self.desk.clone(), lease, number };
        let mut secret = Some(secret);
        let told = ReceiverStream::new(events).map(move |told| {
            // Lives as long as the stream does.
            let _connection = &connection;
            Ok(event(&told, secret.take().unwrap_or_default()))
        });
        Box::pin(told.take_until(self.shutdown.clone().cancelled_owned()))
    }
}

/// 128 bits that nobody can guess.
fn fresh_secret() -> String {
    crate::store::hex(&rand_bytes())
}

fn rand_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    // The kernel's generator is there before any process is; asked for so little it never gives less.
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert_eq!(got, Ok(bytes.len()), "the kernel gives random bytes");
    bytes
}

fn bad(what: impl Into<String>) -> Status {
    Status::invalid_argument(what)
}

/// A request in the words of the rules.
fn wish(asked: v1::AcquireRequest) -> Result<Wish, Status> {
    let class = match asked.class.as_str() {
        "" => Class::Normal,
        name => name.parse::<Class>().map_err(|unknown| bad(unknown.to_string()))?,
    };
    let slots = asked.slots.iter().map(slot).collect::<Result<_, _>>()?;
    let demand = Demand { slots, ram: Mib::from_mib(asked.ram_mib) };
    let span = |millis: u64| (millis > 0).then(|| Span::from_millis(millis));
    let uuids = asked.uuids.into_iter().map(|uuid| GpuUuid::new(uuid).map_err(|name| bad(name.to_string())));
    // Its name and its place in the queue are given by the node.
    let mut request =
        Wanted::new(LeaseId::new("new").map_err(|name| bad(name.to_string()))?, class, demand, Moment::default());
    request.gpus = GpuSelector { models: asked.models, uuids: uuids.collect::<Result<_, _>>()? };
    request.layout = if asked.spread { Layout::Spread } else { Layout::Pack };
    request.flexibility = Flexibility { shrinks: asked.can_shrink, offloads: asked.can_offload };
    request.notice = span(asked.notice_ms);
    request.protection = span(asked.protection_ms);
    Ok(Wish {
        name: asked.request_id,
        request,
        timeout: span(asked.timeout_ms),
        no_wait: asked.no_wait,
        ttl: span(asked.ttl_ms),
        label: asked.label.chars().filter(|c| !c.is_control()).take(128).collect(),
    })
}

fn slot(asked: &v1::SlotRequest) -> Result<Slot, Status> {
    match (asked.memory_mib, asked.percent) {
        (0, 0) => Err(bad("a slot asks for nothing: give it memory_mib or percent")),
        (memory, 0) => Ok(Slot::fixed(Mib::from_mib(memory))),
        (0, percent) => {
            let share = Percent::new(u64::from(percent)).map_err(|wrong| bad(wrong.to_string()))?;
            Ok(Slot { fixed: Mib::ZERO, share: Some(share) })
        }
        _ => Err(bad("a slot asks for memory_mib or for percent, not for both")),
    }
}

/// What a listener is told, in the words of the protocol.
fn event(told: &Told, secret: String) -> v1::LeaseEvent {
    let queue = (told.ended.is_none() && told.lease.phase == Phase::Waiting).then(|| v1::Queue {
        position: told.position.and_then(|at| u32::try_from(at).ok()).unwrap_or_default(),
        reason: told.lease.why.as_ref().map_or("", memboss_core::Waiting::name).to_owned(),
        message: told.lease.why.as_ref().map(ToString::to_string).unwrap_or_default(),
    });
    v1::LeaseEvent { lease: Some(lease(&told.lease, told.ended)), queue, secret }
}

fn lease(view: &LeaseView, ended: Option<EndReason>) -> v1::LeaseView {
    let phase = match (&view.phase, ended) {
        (_, Some(_)) | (Phase::Ended(_), _) => v1::Phase::Ended,
        (Phase::Waiting, _) => v1::Phase::Waiting,
        (Phase::Reserved { .. }, _) => v1::Phase::Reserved,
        (Phase::Active { .. }, _) => v1::Phase::Active,
        (Phase::Revoking { .. }, _) => v1::Phase::Revoking,
        (Phase::Stopping { .. }, _) => v1::Phase::Stopping,
    };
    let reason = match (&view.phase, ended) {
        (_, Some(reason)) => reason.name(),
        (Phase::Stopping { reason } | Phase::Ended(reason), _) => reason.name(),
        (Phase::Revoking { notice, .. }, _) => notice.reason.name(),
        _ => "",
    };
    let gpus = view.placement.iter().flat_map(|placement| &placement.gpus).map(share);
    v1::LeaseView {
        lease: view.id.to_string(),
        phase: phase.into(),
        class: view.class.name().to_owned(),
        gpus: gpus.collect(),
        ram_mib: view.placement.as_ref().map_or(0, |placement| placement.ram.mib()),
        token: Some(v1::Token { epoch: view.token.epoch, sequence: view.token.sequence }),
        notice: notice(view),
        reason: reason.to_owned(),
        message: String::new(),
        queue: None,
        holder: None,
    }
}

fn share(share: &GpuShare) -> v1::GpuShare {
    v1::GpuShare { uuid: share.uuid.to_string(), index: 0, memory_mib: share.memory.mib() }
}

fn notice(view: &LeaseView) -> Option<v1::Notice> {
    let Phase::Revoking { notice, .. } = &view.phase else { return None };
    Some(v1::Notice {
        id: notice_id(view)?,
        preemptor: notice.preemptor.as_ref().map(ToString::to_string).unwrap_or_default(),
        preemptor_class: notice.class.map_or("", Class::name).to_owned(),
        reason: notice.reason.name().to_owned(),
        needed_mib: notice.needed.iter().map(|needed| needed.mib()).collect(),
        remaining_ms: notice.deadline.since(clock::now()).millis(),
    })
}

fn outlook(forecast: &Forecast) -> v1::DryRunResponse {
    let placed = |placement: &Placement| placement.gpus.iter().map(share).collect();
    match forecast {
        Forecast::Grant(placement) => v1::DryRunResponse {
            outlook: v1::Outlook::Now.into(),
            gpus: placed(placement),
            ..v1::DryRunResponse::default()
        },
        Forecast::Preempt { placement, victims } => v1::DryRunResponse {
            outlook: v1::Outlook::AfterPreemption.into(),
            gpus: placed(placement),
            victims: victims.iter().map(ToString::to_string).collect(),
            ..v1::DryRunResponse::default()
        },
        Forecast::Wait { ahead, largest, satisfiable, .. } => {
            let outlook = if *satisfiable { v1::Outlook::Waits } else { v1::Outlook::Never };
            let message = format!("{ahead} wait before it; the largest GPU for it could give {largest}");
            v1::DryRunResponse { outlook: outlook.into(), message, ..v1::DryRunResponse::default() }
        }
    }
}
