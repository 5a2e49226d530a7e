//! The resources `memboss.dev/agent` and `memboss.dev/agent-gpus`: whoever has one reaches the node's agent by its socket, and with the second sees all
//! GPUs of the node, for leases in code. There are plenty of both: they count nothing. It knows no lease and no pod, and answers from memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memboss_kubelet_api::HEALTHY;
use memboss_kubelet_api::deviceplugin::device_plugin_server::DevicePlugin;
use memboss_kubelet_api::deviceplugin::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
    ListAndWatchResponse, Mount, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::cdi_directory::{ALL_GPUS, socket_variable};
use crate::figures::Figures;
use crate::registration::Offer;
use crate::server::{Streams, tell_devices};
use crate::state::Devices;

/// The agent's socket.
pub const SOCKET_RESOURCE: &str = "memboss.dev/agent";
/// The agent's socket and all GPUs.
pub const GPUS_RESOURCE: &str = "memboss.dev/agent-gpus";

/// More containers than that run on no node.
const PLACES: u16 = 1024;

/// What a door leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadsTo {
    /// The agent's socket.
    Agent,
    /// That, and all GPUs.
    AgentAndGpus,
}

/// The service for one of the two resources, on one socket.
#[derive(Clone, Debug)]
pub struct Door {
    leads_to: LeadsTo,
    /// The directory of the agent's socket, and not the socket itself: a new agent makes a new one.
    directory: PathBuf,
    devices: watch::Receiver<Devices>,
    streams: Streams,
    end: Shutdown,
    figures: Figures,
}

impl Door {
    /// A door to the socket in that directory, open while `devices` are listed.
    #[must_use]
    pub fn new(leads_to: LeadsTo, directory: &Path, devices: watch::Receiver<Devices>, figures: Figures) -> Self {
        let directory = directory.to_owned();
        Self { leads_to, directory, devices, streams: Streams::default(), end: Shutdown::new(), figures }
    }

    fn opened(&self) -> ContainerAllocateResponse {
        let at = self.directory.display().to_string();
        let (name, value) = socket_variable(&self.directory);
        let gpus = (self.leads_to == LeadsTo::AgentAndGpus).then(|| CdiDevice { name: ALL_GPUS.to_owned() });
        ContainerAllocateResponse {
            envs: HashMap::from([(name.to_owned(), value)]),
            mounts: vec![Mount { container_path: at.clone(), host_path: at, read_only: true }],
            cdi_devices: gpus.into_iter().collect(),
            ..ContainerAllocateResponse::default()
        }
    }
}

/// As many as there ever are, under names that never change.
#[must_use]
pub fn plenty() -> Devices {
    let place = |number| Device { id: format!("a{number:04}"), health: HEALTHY.to_owned(), topology: None };
    Arc::new((1..=PLACES).map(place).collect())
}

impl Offer for Door {
    const OPTIONS: DevicePluginOptions =
        DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: false };

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

#[tonic::async_trait]
impl DevicePlugin for Door {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(Self::OPTIONS))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        Ok(Response::new(tell_devices(self.devices.clone(), &self.streams, self.end.clone())))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("one is as good as another"))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let asked = request.into_inner().container_requests;
        tracing::info!(leads_to = ?self.leads_to, containers = asked.len(), "opened");
        let container_responses = asked.iter().map(|_| self.opened()).collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
