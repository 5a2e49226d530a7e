//! The service `Workload`: a container's own lease, and giving it back in part or whole. The caller is whoever the kernel says.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use memboss_agent_api::v1;
use memboss_agent_api::v1::workload_server::Workload;
use memboss_core::{LeaseId, Mib};
use memboss_platform::shutdown::Shutdown;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::node_service::ask;
use super::turns::Turn;
use super::{Desk, message, peer};
use crate::node::view::{LeaseSeen, Snapshot};
use crate::node::{Ask, GiveBack, RamWish};
use crate::probes::clock;
use crate::probes::processes::PodUid;

pub(super) struct Service {
    pub(super) desk: Desk,
    pub(super) shutdown: Shutdown,
}

type LeaseStream = Pin<Box<dyn Stream<Item = Result<v1::LeaseView, Status>> + Send>>;

#[tonic::async_trait]
impl Workload for Service {
    type WatchStream = LeaseStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<LeaseStream>, Status> {
        let (pod, _turn) = peer::pod(request.extensions()).await?;
        if held_by(&*self.desk.shown().await?, &pod).is_none() {
            return Err(Status::not_found(format!("pod {pod} holds no lease on this node")));
        }
        let leases = WatchStream::new(self.desk.snapshots.clone()).filter_map(move |snapshot| {
            let found = held_by(&snapshot, &pod).map(|(id, seen)| (id.clone(), told(seen)));
            async move { found.map(Arc::new) }
        });
        let views = changes(leases).map(|lease| Ok(message::lease(&lease.0, &lease.1, clock::now())));
        Ok(Response::new(Box::pin(views.take_until(self.shutdown.clone().cancelled_owned()))))
    }

    async fn shrink(&self, request: Request<v1::ShrinkRequest>) -> Result<Response<v1::LeaseView>, Status> {
        let (pod, turn) = peer::pod(request.extensions()).await?;
        let request = request.into_inner();
        self.give_back(pod, turn, &request.memory_mib, RamWish::Same, request.notice_id).await
    }

    async fn offload(&self, request: Request<v1::OffloadRequest>) -> Result<Response<v1::LeaseView>, Status> {
        let (pod, turn) = peer::pod(request.extensions()).await?;
        let request = request.into_inner();
        let more = RamWish::More(Mib::from_mib(request.ram_mib));
        self.give_back(pod, turn, &request.memory_mib, more, request.notice_id).await
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaseView>, Status> {
        let (pod, turn) = peer::pod(request.extensions()).await?;
        let notice = request.into_inner().notice_id;
        let lease = ask(&self.desk, turn, |reply| Ask::Leave { pod, notice, reply }).await?;
        self.view(&lease).await
    }
}

impl Service {
    async fn give_back(
        &self,
        pod: PodUid,
        turn: Turn,
        memory_mib: &[u64],
        ram: RamWish,
        notice: String,
    ) -> Result<Response<v1::LeaseView>, Status> {
        let memory = memory_mib.iter().copied().map(Mib::from_mib).collect();
        let what = GiveBack { memory, ram, notice };
        let lease = ask(&self.desk, turn, |reply| Ask::GiveBack { pod, what, reply }).await?;
        self.view(&lease).await
    }

    async fn view(&self, lease: &LeaseId) -> Result<Response<v1::LeaseView>, Status> {
        let snapshot = self.desk.shown().await?;
        let seen = snapshot.leases.get(lease).ok_or_else(|| Status::not_found(format!("lease {lease} is over")))?;
        Ok(Response::new(message::lease(lease, seen, clock::now())))
    }
}

fn held_by<'a>(snapshot: &'a Snapshot, pod: &PodUid) -> Option<(&'a LeaseId, &'a LeaseSeen)> {
    snapshot.leases.iter().find(|(_, seen)| seen.subject.as_ref().is_some_and(|subject| subject.pod == *pod))
}

/// A lease as its holder is told: what it uses, it knows, and that alone is no news.
fn told(seen: &LeaseSeen) -> LeaseSeen {
    LeaseSeen { used: Vec::new(), ram_used: None, whose: None, ..seen.clone() }
}

/// Only what differs from the one before.
pub(super) fn changes<T: PartialEq + Send + Sync>(
    all: impl Stream<Item = Arc<T>> + Send,
) -> impl Stream<Item = Arc<T>> + Send {
    let mut before: Option<Arc<T>> = None;
    all.filter_map(move |next| {
        let news = before.as_ref() != Some(&next);
        if news {
            before = Some(next.clone());
        }
        async move { news.then_some(next) }
    })
}
