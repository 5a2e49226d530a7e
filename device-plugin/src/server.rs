//! The plugin's gRPC service for the kubelet: parses, asks the state or the binder, maps back. `Allocate` answers from memory and never waits
//! for kubelet, agent or API server, because the kubelet admits no other pod meanwhile.

use std::sync::Arc;

use memboss_kubelet_api::deviceplugin::device_plugin_server::DevicePlugin;
use memboss_kubelet_api::deviceplugin::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    DevicePluginOptions, Empty, ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::cdi_directory::KIND;
use crate::figures::{Figures, OfResult};
use crate::prestart::Binder;
use crate::registration::Offer;
use crate::slots::{NotASlot, SlotSet, prefer};
use crate::state::{Devices, State, chain};

/// How many `ListAndWatch` streams are open.
#[derive(Clone, Debug, Default)]
pub struct Streams(watch::Sender<usize>);

/// One open stream; counted until dropped.
struct OpenStream(Streams);

impl Streams {
    /// The number, now and on every change.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }

    fn open(&self) -> OpenStream {
        self.0.send_modify(|count| *count += 1);
        OpenStream(self.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// The service on one socket; a new socket gets a clone with a token of its own.
#[derive(Clone, Debug)]
pub struct Service {
    /// Answers.
    pub state: Arc<State>,
    /// Binds.
    pub binder: Arc<Binder>,
    /// Counts streams, on whichever socket.
    pub streams: Streams,
    /// Ends the streams of this socket.
    pub end: Shutdown,
    /// Counts calls.
    pub figures: Figures,
}

impl Offer for Service {
    const OPTIONS: DevicePluginOptions =
        DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };

    fn until(&self, end: Shutdown) -> Self {
        Self { end, ..self.clone() }
    }

    fn streams(&self) -> &Streams {
        &self.streams
    }

    fn figures(&self) -> &Figures {
        &self.figures
    }
}

/// A stream of the devices, now and on every change, until `end` or nobody listens.
pub(crate) fn tell_devices(
    mut devices: watch::Receiver<Devices>,
    streams: &Streams,
    end: Shutdown,
) -> ReceiverStream<Result<ListAndWatchResponse, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    let open = streams.open();
    tokio::spawn(async move {
        let _open = open;
        loop {
            let list = devices.borrow_and_update().clone();
            if sender.send(Ok(ListAndWatchResponse { devices: list.to_vec() })).await.is_err() {
                return;
            }
            tokio::select! {
                changed = devices.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
                () = end.cancelled() => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(Self::OPTIONS))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        Ok(Response::new(tell_devices(self.state.devices(), &self.streams, self.end.clone())))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let answers = request.into_inner().container_requests.into_iter().map(|asked| {
            let size = usize::try_from(asked.allocation_size).unwrap_or(0);
            let device_ids = prefer(asked.available_device_ids, asked.must_include_device_ids, size);
            ContainerPreferredAllocationResponse { device_ids }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: answers.collect() }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let asked = request.into_inner().container_requests;
        let sets: Vec<SlotSet> = asked
            .iter()
            .map(|container| SlotSet::parse(&container.device_ids))
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(&error))?;
        let names = self.state.allocate(&sets).await;
        tracing::info!(sets = %list(&sets), ?names, "slots given");
        let answer = |name: Option<String>| ContainerAllocateResponse {
            cdi_devices: name.into_iter().map(|name| CdiDevice { name: format!("{KIND}={name}") }).collect(),
            ..ContainerAllocateResponse::default()
        };
        Ok(Response::new(AllocateResponse { container_responses: names.into_iter().map(answer).collect() }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        let slots = SlotSet::parse(request.into_inner().device_ids).map_err(|error| invalid(&error))?;
        let (result, answer) = match self.binder.bind(&slots).await {
            Ok(owner) => {
                tracing::info!(%owner, %slots, "container bound");
                ("bound", Ok(Response::new(PreStartContainerResponse {})))
            }
            Err(refusal) => {
                let text = chain(&refusal);
                tracing::warn!(%slots, refusal = text, "container start put off");
                (refusal.label(), Err(Status::failed_precondition(text)))
            }
        };
        self.figures.starts.get_or_create(&OfResult { result }).inc();
        answer
    }
}

fn invalid(error: &NotASlot) -> Status {
    Status::invalid_argument(error.to_string())
}

fn list(sets: &[SlotSet]) -> String {
    sets.iter().map(SlotSet::to_string).collect::<Vec<_>>().join(" ")
}
