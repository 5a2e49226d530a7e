//! The service `Leases`: for processes that lease in code. It hands requests to the node's task and tells what becomes of a lease; it decides nothing, and
//! believes nothing that a caller says of itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use memboss_agent_api::v1;
use memboss_agent_api::v1::leases_server::Leases;
use memboss_core::{LeaseId, Mib, Phase, Waiting};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::gate::Gate;
use super::turns::Turn;
use super::veil::Veil;
use super::{Desk, ending, leases_words as words, peer, status};
use crate::node::clients::{ClientInput, Listener, Told};
use crate::node::view::Snapshot;
use crate::node::{Ask, Denied, GiveBack, Input, RamWish};
use crate::probes::clock;
use crate::probes::processes::{Caller, PodUid};

pub(super) struct Service {
    pub(super) desk: Desk,
    pub(super) shutdown: Shutdown,
    pub(super) watchers: Gate,
    pub(super) connections: AtomicU64,
}

/// No state of the machine is told more often.
const PACE: Duration = Duration::from_millis(250);

type StatusStream = Pin<Box<dyn Stream<Item = Result<v1::StatusResponse, Status>> + Send>>;
type EventStream = Pin<Box<dyn Stream<Item = Result<v1::LeaseEvent, Status>> + Send>>;

/// A stream that somebody listens to: the node's task is told when it breaks, however that happened, also before its first word.
struct Connection {
    inputs: mpsc::Sender<Input>,
    number: u64,
    events: watch::Receiver<Option<Told>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The node's task has nothing more to tell there: it knows of this stream no more.
        if self.events.has_changed().is_err() {
            return;
        }
        let (inputs, connection) = (self.inputs.clone(), self.number);
        tokio::spawn(async move { inputs.send(Input::Client(ClientInput::Broke { connection })).await });
    }
}

/// A listener's end here.
struct Hearing {
    connection: Connection,
    events: watch::Receiver<Option<Told>>,
}

#[tonic::async_trait]
impl Leases for Service {
    type AcquireStream = EventStream;
    type ResumeStream = EventStream;

    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<EventStream>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let pod = caller.pod.clone();
        let wish = Box::new(words::wish(request.into_inner())?);
        let (listener, hearing) = self.listener();
        let secret = fresh_secret();
        let accepted = self.ask(turn, |reply| ClientInput::Acquire { caller, wish, secret, listener, reply }).await?;
        Ok(Response::new(self.stream(pod, accepted.secret, hearing)))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<EventStream>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let pod = caller.pod.clone();
        let v1::ResumeRequest { lease, secret } = request.into_inner();
        let (listener, hearing) = self.listener();
        self.ask(turn, |reply| ClientInput::Resume { caller, lease, secret, listener, reply }).await?;
        Ok(Response::new(self.stream(pod, String::new(), hearing)))
    }

    async fn renew(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let pod = caller.pod.clone();
        let lease = request.into_inner().lease;
        let told = self.ask(turn, |reply| ClientInput::Renew { caller, lease, reply }).await?;
        Ok(Response::new(event(&self.desk, pod.as_ref(), &told, String::new())))
    }

    async fn release(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let lease = request.into_inner().lease;
        self.ask(turn, |reply| ClientInput::Release { caller, lease, reply }).await?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn dry_run(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::DryRunResponse>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let pod = caller.pod.clone();
        let wish = Box::new(words::wish(request.into_inner())?);
        // Who is named may end, or begin, meanwhile.
        let before = self.desk.snapshots.borrow().clone();
        let forecast = self.ask(turn, |reply| ClientInput::DryRun { caller, wish, reply }).await?;
        let mut told = words::outlook(&forecast);
        let snapshot = self.desk.shown().await?;
        let veil = Veil::new(pod.as_ref(), &snapshot).over(before.leases.keys(), &before);
        told.victims.iter_mut().chain([&mut told.message]).for_each(|text| veil.text(text));
        words::number(&mut told.gpus, &snapshot);
        Ok(Response::new(told))
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let v1::ResizeRequest { lease, memory_mib, ram_mib, notice_id: notice } = request.into_inner();
        let ram = ram_mib.map_or(RamWish::Same, |ram| RamWish::Down(Mib::from_mib(ram)));
        let memory = memory_mib.into_iter().map(Mib::from_mib).collect();
        self.give_back(caller, turn, lease, GiveBack { memory, ram, notice }).await
    }

    async fn r#move(&self, request: Request<v1::MoveRequest>) -> Result<Response<v1::LeaseEvent>, Status> {
        let (caller, turn) = peer::caller(request.extensions()).await?;
        let v1::MoveRequest { lease, memory_mib, more_ram_mib, notice_id: notice } = request.into_inner();
        let ram = RamWish::More(Mib::from_mib(more_ram_mib));
        let memory = memory_mib.into_iter().map(Mib::from_mib).collect();
        self.give_back(caller, turn, lease, GiveBack { memory, ram, notice }).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let (Caller { pod, .. }, _turn) = peer::caller(request.extensions()).await?;
        Ok(Response::new(seen_by(pod.as_ref(), &*self.desk.shown().await?)))
    }

    type WatchStatusStream = StatusStream;

    async fn watch_status(&self, request: Request<v1::StatusRequest>) -> Result<Response<StatusStream>, Status> {
        let (caller, _turn) = peer::caller(request.extensions()).await?;
        let place = self.watchers.enter(&caller.owner());
        let place = place
            .ok_or_else(|| Status::resource_exhausted("you watch as often as anybody may: end one of the others"))?;
        let pod = caller.pod;
        let mut before: Option<Arc<Snapshot>> = None;
        let changes = WatchStream::new(self.desk.snapshots.clone()).filter_map(move |snapshot| {
            let news = snapshot.is_known() && before.as_ref().is_none_or(|before| !before.shows_the_same(&snapshot));
            if news {
                before = Some(snapshot.clone());
            }
            std::future::ready(news.then_some(snapshot))
        });
        let paced = tokio_stream::StreamExt::throttle(changes, PACE);
        let told = paced.map(move |snapshot| {
            // Lives as long as the stream does.
            let _place = &place;
            Ok(seen_by(pod.as_ref(), &snapshot))
        });
        Ok(Response::new(Box::pin(told.take_until(self.shutdown.clone().cancelled_owned()))))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let (Caller { pod, .. }, turn) = peer::caller(request.extensions()).await?;
        let lease = request.into_inner().lease;
        let snapshot = self.desk.shown().await?;
        let veil = Veil::new(pod.as_ref(), &snapshot);
        if !veil.shows_name(&snapshot, &lease) {
            return Err(Status::not_found(format!("no lease {lease} is known here")));
        }
        let mut lines = super::node_service::ask(&self.desk, turn, |reply| Ask::Explain { lease, reply }).await?;
        // Who is named may have come meanwhile.
        let after = self.desk.shown().await?;
        let veil = veil.over(after.leases.keys(), &after);
        lines.iter_mut().for_each(|line| veil.text(line));
        Ok(Response::new(v1::ExplainResponse { lines }))
    }

    async fn machines(&self, request: Request<v1::MachinesRequest>) -> Result<Response<v1::MachinesResponse>, Status> {
        if peer::caller(request.extensions()).await?.0.pod.is_some() {
            return Err(Status::permission_denied("a pod is not told of other machines"));
        }
        let Some(neighbours) = &self.desk.neighbours else {
            return Err(Status::failed_precondition(
                "this machine shares no Redis-compatible server with others: say which one to memboss-agent (redis-url), or ask the API server of a cluster",
            ));
        };
        let machines = neighbours.machines().await.map_err(|failure| {
            tracing::debug!(error = &failure as &dyn std::error::Error, "the neighbours cannot be told");
            Status::failed_precondition(failure.to_string())
        })?;
        Ok(Response::new(v1::MachinesResponse { machines }))
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
    fn listener(&self) -> (Listener, Hearing) {
        let (events, heard) = watch::channel(None);
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { inputs: self.desk.inputs.clone(), number, events: heard.clone() };
        (Listener { connection: number, events }, Hearing { connection, events: heard })
    }

    /// The answer may take long: it is others' turn once the question lies in the inbox.
    async fn ask<T>(
        &self,
        turn: Turn,
        make: impl FnOnce(oneshot::Sender<Result<T, Denied>>) -> ClientInput,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.desk.inputs.send(Input::Client(make(reply))).await.map_err(|_| ending())?;
        drop(turn);
        answer.await.map_err(|_| ending())?.map_err(|denied| status(&denied))
    }

    async fn give_back(
        &self,
        caller: Caller,
        turn: Turn,
        lease: String,
        what: GiveBack,
    ) -> Result<Response<v1::LeaseEvent>, Status> {
        let pod = caller.pod.clone();
        let lease = self.ask(turn, |reply| ClientInput::GiveBack { caller, lease, what, reply }).await?;
        let snapshot = self.desk.shown().await?;
        let seen = snapshot.leases.get(&lease).ok_or_else(|| Status::not_found(format!("lease {lease} is over")))?;
        let mut shown = super::message::lease(&lease, seen, clock::now());
        Veil::new(pod.as_ref(), &snapshot).lease(&mut shown);
        Ok(Response::new(v1::LeaseEvent { lease: Some(shown), queue: None, secret: String::new() }))
    }

    fn stream(&self, pod: Option<PodUid>, secret: String, hearing: Hearing) -> EventStream {
        let (desk, mut secret) = (self.desk.clone(), Some(secret));
        let Hearing { connection, events } = hearing;
        let told = WatchStream::new(events).filter_map(std::future::ready).map(move |told| {
            // Lives as long as the stream does.
            let _connection = &connection;
            Ok(event(&desk, pod.as_ref(), &told, secret.take().unwrap_or_default()))
        });
        Box::pin(told.take_until(self.shutdown.clone().cancelled_owned()))
    }
}

/// What a listener is told, with the GPUs' numbers and without the names of other tenants.
fn event(desk: &Desk, pod: Option<&PodUid>, told: &Told, secret: String) -> v1::LeaseEvent {
    let snapshot = desk.snapshots.borrow().clone();
    let mut event = words::event(told, secret);
    if let Some(lease) = &mut event.lease {
        words::number(&mut lease.gpus, &snapshot);
        if pod.is_some() {
            Veil::new(pod, &snapshot).over(named(told), &snapshot).lease(lease);
            event.queue.clone_from(&lease.queue);
        }
    }
    event
}

/// The leases that it names beside its own.
fn named(told: &Told) -> impl Iterator<Item = &LeaseId> {
    let before = match &told.lease.why {
        Some(Waiting::Behind { head, .. }) => Some(head),
        _ => None,
    };
    let preemptor = match &told.lease.phase {
        Phase::Revoking { notice, .. } => notice.preemptor.as_ref(),
        _ => None,
    };
    before.into_iter().chain(preemptor)
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
