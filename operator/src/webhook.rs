//! The HTTPS server: admission of pods, and agents' credentials. It parses, asks (`admit.rs`, `credentials.rs`) and maps; it decides nothing.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::{DeserializeGuard, DynamicObject};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use memboss_core::Class;
use memboss_crds::{MemoryNode, parse_mib};
use memboss_platform::admin::Condition;
use memboss_platform::shutdown::Shutdown;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::admit::{KnownGpu, MAX_CLASS, Surroundings, admit};
use crate::annotations::Wrong;
use crate::certs::{self, Identity};
use crate::credentials::Issuer;
use crate::metrics::Figures;
use crate::patience::answered;
use crate::watch::readable;

/// How often the certificate is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Time to the next look after one that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the handlers share.
#[derive(Clone)]
pub struct Desk {
    client: Client,
    namespaces: Store<Namespace>,
    nodes: Store<MemoryNode>,
    issuer: Option<Issuer>,
    figures: Figures,
}

impl Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Starts watching what admission needs to know.
    #[must_use]
    pub fn new(client: &Client, issuer: Option<Issuer>, figures: Figures) -> Self {
        let (namespaces, nodes) = (kept(Api::all(client.clone())), kept(Api::all(client.clone())));
        Self { client: client.clone(), namespaces, nodes, issuer, figures }
    }

    /// What is to become of that pod. Before one is refused its namespace is read anew: what is watched may be old, as when the API server has just come back.
    async fn judge(&self, pod: &Pod, namespace: &str) -> Result<Option<Pod>, Vec<Wrong>> {
        let around = self.around(namespace);
        let refused = match admit(pod, &around) {
            Err(wrong) => wrong,
            admitted => return admitted,
        };
        let api = Api::<Namespace>::all(self.client.clone());
        match answered("the namespace", async { Ok(api.get(namespace).await?) }).await {
            Ok(fresh) => admit(pod, &Surroundings { most: most(&fresh), ..around }),
            Err(error) => {
                warn!(error = &*error, namespace, "cannot be read anew");
                Err(refused)
            }
        }
    }

    fn around(&self, namespace: &str) -> Surroundings {
        let most = self.namespaces.get(&ObjectRef::new(namespace)).and_then(|namespace| most(&namespace));
        let nodes = self.nodes.state();
        let gpus = nodes.iter().filter_map(|node| node.status.as_ref()).flat_map(|status| &status.gpus);
        let gpus = gpus.filter_map(|gpu| {
            let (uuid, model) = gpu.named().ok()?;
            Some(KnownGpu { uuid, model, leasable: parse_mib(&gpu.leasable).unwrap_or_default() })
        });
        Surroundings { gpus: gpus.collect(), most }
    }
}

/// The highest class of a namespace, if that is said.
fn most(namespace: &Namespace) -> Option<Class> {
    namespace.annotations().get(MAX_CLASS)?.parse().ok()
}

/// What is there of a kind and can be read, kept up to date.
fn kept<K>(api: Api<DeserializeGuard<K>>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, mut writer) = reflector::store();
    tokio::spawn(async move {
        let mut events = readable(api, watcher::Config::default());
        while let Some(event) = events.next().await {
            writer.apply_watcher_event(&event);
        }
    });
    store
}

/// What the server needs to start.
#[derive(Debug)]
pub struct Place {
    /// Where it listens.
    pub address: SocketAddr,
    /// The installation's namespace.
    pub namespace: String,
    /// The Service by which the API server reaches it.
    pub service: String,
}

/// Serves until the shutdown, with a certificate that is renewed meanwhile.
///
/// # Errors
/// When it cannot get a certificate, or not listen.
pub async fn serve(client: Client, place: Place, desk: Desk, ready: Condition, shutdown: Shutdown) -> Result<()> {
    let asked = certs::current(&client, &place.namespace, &place.service);
    let identity = answered("the webhook's certificate", asked).await?;
    let tls = RustlsConfig::from_pem(identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes())
        .await
        .context("failed to use the webhook's certificate")?;
    tokio::spawn(renew(client, (place.namespace.clone(), place.service.clone()), tls.clone(), identity, ready));
    let router = Router::new()
        .route("/mutate-pods", post(mutate_pod))
        .route("/v1/redis-credentials", get(redis_credentials).post(redis_credentials))
        .layer(axum::extract::DefaultBodyLimit::max(3 << 20))
        .with_state(Arc::new(desk));
    let handle = axum_server::Handle::new();
    tokio::spawn({
        let handle = handle.clone();
        async move {
            shutdown.cancelled().await;
            handle.graceful_shutdown(Some(Duration::from_secs(5)));
        }
    });
    axum_server::bind_rustls(place.address, tls)
        .handle(handle)
        .serve(router.into_make_service())
        .await
        .with_context(|| format!("failed to serve on {}", place.address))
}

/// Looks whether the Secret has another certificate, or its time is near, and goes over to it without a break: its CA is told first, and the certificate
/// is used a look later, when the API server trusts it.
async fn renew(
    client: Client,
    (namespace, service): (String, String),
    tls: RustlsConfig,
    mut used: Identity,
    ready: Condition,
) {
    loop {
        let asked = refresh(&client, &namespace, &service, &tls, &mut used);
        let again = match answered("the webhook's certificate", asked).await {
            Ok(()) => {
                ready.ready();
                LOOK
            }
            Err(error) => {
                warn!(error = &*error, "the webhook's certificate stays as it is for now");
                RETRY
            }
        };
        tokio::time::sleep(again).await;
    }
}

async fn refresh(
    client: &Client,
    namespace: &str,
    service: &str,
    tls: &RustlsConfig,
    used: &mut Identity,
) -> Result<()> {
    let identity = certs::current(client, namespace, service).await?;
    let news_to_the_server = certs::publish(client, &identity).await?;
    if identity == *used || news_to_the_server {
        return Ok(());
    }
    let (certificate, key) = (identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes());
    tls.reload_from_pem(certificate, key).await.context("failed to use the new certificate")?;
    info!("the webhook uses a new certificate");
    *used = identity;
    Ok(())
}

async fn mutate_pod(
    State(desk): State<Arc<Desk>>,
    Json(review): Json<AdmissionReview<Pod>>,
) -> Json<AdmissionReview<DynamicObject>> {
    let request: AdmissionRequest<Pod> = match review.try_into() {
        Ok(request) => request,
        Err(error) => {
            return Json(AdmissionResponse::invalid(format!("the review has no request: {error}")).into_review());
        }
    };
    Json(answer(&desk, &request).await.into_review())
}

async fn answer(desk: &Desk, request: &AdmissionRequest<Pod>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let Some(pod) = &request.object else { return response };
    let namespace = request.namespace.as_deref().unwrap_or_default();
    match desk.judge(pod, namespace).await {
        Ok(None) => response,
        Ok(Some(changed)) => {
            let patch = serde_json::to_value(pod)
                .and_then(|before| Ok(json_patch::diff(&before, &serde_json::to_value(&changed)?)));
            match patch
                .map_err(|error| error.to_string())
                .and_then(|patch| response.with_patch(patch).map_err(|error| error.to_string()))
            {
                Ok(response) => response,
                Err(error) => {
                    AdmissionResponse::from(request).deny(format!("memboss failed to write its changes: {error}"))
                }
            }
        }
        Err(wrong) => {
            desk.figures.refused(wrong.first().map_or("", |first| first.field.as_str()));
            let all: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            info!(namespace, pod = request.name, problems = all.join("; "), "refused a pod");
            response.deny(all.join("; "))
        }
    }
}

async fn redis_credentials(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let Some(issuer) = &desk.issuer else {
        return (StatusCode::NOT_FOUND, "this installation has no Redis\n").into_response();
    };
    let token = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else { return (StatusCode::UNAUTHORIZED, "a bearer token is needed\n").into_response() };
    match issuer.issue(token).await {
        Ok(credentials) => Json(credentials).into_response(),
        Err(error) => {
            warn!(error = &*error, "credentials were asked for and not given");
            (StatusCode::FORBIDDEN, format!("{error}\n")).into_response()
        }
    }
}
