//! A kubelet that registers plugins, listens to their devices and tells podresources, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use memboss_kubelet_api::deviceplugin::device_plugin_client::DevicePluginClient;
use memboss_kubelet_api::deviceplugin::registration_server::{Registration, RegistrationServer};
use memboss_kubelet_api::deviceplugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, Empty, PreStartContainerRequest,
    RegisterRequest,
};
use memboss_kubelet_api::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use memboss_kubelet_api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use memboss_platform::shutdown::Shutdown;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use super::{LIMIT, RESOURCE};

/// id -> health.
type Devices = BTreeMap<String, String>;

/// By resource.
type ByResource<T> = Arc<watch::Sender<BTreeMap<String, T>>>;

/// Container -> ids.
type Containers = BTreeMap<String, Vec<String>>;

#[derive(Clone)]
struct Inner {
    directory: PathBuf,
    /// How many registrations, and the last one's socket.
    registered: ByResource<(usize, String)>,
    devices: ByResource<Devices>,
    /// By pod.
    pods: Arc<Mutex<BTreeMap<String, Containers>>>,
    /// Cancelled and replaced to drop the open stream.
    stream: Arc<Mutex<Shutdown>>,
    end: Shutdown,
}

pub(crate) struct Kubelet {
    inner: Inner,
}

impl Kubelet {
    /// Deletes what is in the directory, as a real one does, and begins to serve.
    pub(crate) async fn start(directory: &Path, pod_resources: &Path) -> Self {
        for entry in fs::read_dir(directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let _ = fs::remove_file(pod_resources);
        let inner = Inner {
            directory: directory.to_owned(),
            registered: Arc::default(),
            devices: Arc::default(),
            pods: Arc::default(),
            stream: Arc::default(),
            end: Shutdown::new(),
        };
        let incoming = |path: &Path| UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let (one, other) = (incoming(pod_resources), incoming(&directory.join("kubelet.sock")));
        let end = || inner.end.clone().cancelled_owned();
        let lister = PodResourcesListerServer::new(inner.clone());
        tokio::spawn(Server::builder().add_service(lister).serve_with_incoming_shutdown(one, end()));
        let registration = RegistrationServer::new(inner.clone());
        tokio::spawn(Server::builder().add_service(registration).serve_with_incoming_shutdown(other, end()));
        Self { inner }
    }

    /// Ends it; its sockets stay, as with a real one that is killed.
    pub(crate) fn kill(&self) {
        self.inner.end.cancel();
        self.drop_stream();
    }

    pub(crate) fn drop_stream(&self) {
        let mut stream = self.inner.stream.lock().unwrap();
        stream.cancel();
        *stream = Shutdown::new();
    }

    /// The socket of the `number`th registration of the slots, once there was one.
    pub(crate) async fn registration(&self, number: usize) -> String {
        self.registration_of(RESOURCE, number).await
    }

    /// The socket of the `number`th registration of a resource, once there was one.
    pub(crate) async fn registration_of(&self, resource: &str, number: usize) -> String {
        let mut registered = self.inner.registered.subscribe();
        let wait = registered.wait_for(|all| all.get(resource).is_some_and(|(count, _)| *count >= number));
        tokio::time::timeout(LIMIT, wait).await.expect("never registered").unwrap()[resource].1.clone()
    }

    /// The slots, once so many are listed and so many of them healthy.
    pub(crate) async fn devices(&self, listed: usize, healthy: usize) -> Devices {
        self.devices_of(RESOURCE, listed, healthy).await
    }

    /// The devices of a resource, once so many are listed and so many of them healthy.
    pub(crate) async fn devices_of(&self, resource: &str, listed: usize, healthy: usize) -> Devices {
        let mut devices = self.inner.devices.subscribe();
        let fits = |all: &BTreeMap<String, Devices>| {
            let devices = all.get(resource);
            let count = |devices: &Devices| devices.values().filter(|health| *health == "Healthy").count();
            devices.is_some_and(|devices| (devices.len(), count(devices)) == (listed, healthy))
        };
        let found = tokio::time::timeout(LIMIT, devices.wait_for(fits)).await;
        let found = found.map(|found| found.unwrap()[resource].clone());
        found.unwrap_or_else(|_| panic!("instead of {healthy}/{listed}: {:?}", self.inner.devices.borrow()))
    }

    /// Waits until a slot is listed with this health.
    pub(crate) async fn shows(&self, id: &str, health: &str) {
        let mut devices = self.inner.devices.subscribe();
        let shown = |all: &BTreeMap<String, Devices>| all.get(RESOURCE)?.get(id).cloned();
        let wait = devices.wait_for(|all| shown(all).is_some_and(|shown| shown == health));
        tokio::time::timeout(LIMIT, wait).await.expect("never shown").unwrap();
    }

    async fn plugin(&self, resource: &str) -> DevicePluginClient<Channel> {
        let socket = self.inner.registered.borrow()[resource].1.clone();
        let channel = memboss_kubelet_api::connect(&self.inner.directory.join(socket)).await.unwrap();
        DevicePluginClient::new(channel)
    }

    pub(crate) async fn allocate(&self, ids: &[&str]) -> String {
        let container = self.allocate_of(RESOURCE, ids).await;
        assert!(container.envs.is_empty() && container.mounts.is_empty() && container.devices.is_empty());
        container.cdi_devices[0].name.clone()
    }

    pub(crate) async fn allocate_of(&self, resource: &str, ids: &[&str]) -> ContainerAllocateResponse {
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { device_ids: owned(ids) }] };
        let answer = self.plugin(resource).await.allocate(request).await.unwrap().into_inner();
        answer.container_responses.into_iter().next().unwrap()
    }

    pub(crate) async fn pre_start(&self, ids: &[&str]) -> Result<(), Status> {
        let request = PreStartContainerRequest { device_ids: owned(ids) };
        self.plugin(RESOURCE).await.pre_start_container(request).await.map(|_| ())
    }

    /// Admits a pod: podresources lists it from now on.
    pub(crate) fn admit(&self, pod: &str, containers: &[(&str, &[&str])]) {
        let containers = containers.iter().map(|(name, ids)| ((*name).to_owned(), owned(ids))).collect();
        self.inner.pods.lock().unwrap().insert(pod.to_owned(), containers);
    }

    pub(crate) fn remove(&self, pod: &str) {
        self.inner.pods.lock().unwrap().remove(pod);
    }
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tonic::async_trait]
impl Registration for Inner {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        assert_eq!(request.version, "v1beta1");
        assert_eq!(request.options.unwrap().pre_start_required, request.resource_name == RESOURCE);
        let channel = memboss_kubelet_api::connect(&self.directory.join(&request.endpoint))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (devices, end) = (Arc::clone(&self.devices), self.stream.lock().unwrap().clone());
        let resource = request.resource_name.clone();
        devices.send_modify(|all| drop(all.remove(&resource)));
        tokio::spawn(async move {
            let Ok(response) = DevicePluginClient::new(channel).list_and_watch(Empty {}).await else { return };
            let mut lists = response.into_inner();
            let listen = async {
                while let Ok(Some(list)) = lists.message().await {
                    let list = list.devices.into_iter().map(|device| (device.id, device.health)).collect();
                    devices.send_modify(|all| drop(all.insert(resource.clone(), list)));
                }
            };
            tokio::select! { () = listen => {}, () = end.cancelled() => {} }
        });
        self.registered.send_modify(|all| {
            let registered = all.entry(request.resource_name).or_default();
            *registered = (registered.0 + 1, request.endpoint);
        });
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Inner {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        // One entry per id, as the kubelet does.
        let device = |id: &String| ContainerDevices {
            resource_name: RESOURCE.to_owned(),
            device_ids: vec![id.clone()],
            topology: None,
        };
        let container = |(name, ids): (&String, &Vec<String>)| ContainerResources {
            name: name.clone(),
            devices: ids.iter().map(device).collect(),
            ..ContainerResources::default()
        };
        let pod = |(name, containers): (&String, &Containers)| PodResources {
            name: name.clone(),
            namespace: "team".to_owned(),
            containers: containers.iter().map(container).collect(),
            ..PodResources::default()
        };
        let pod_resources = self.pods.lock().unwrap().iter().map(pod).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
