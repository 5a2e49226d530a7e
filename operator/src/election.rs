//! Who leads, and in which epoch. A `coordination.k8s.io` Lease by compare-and-swap: no clock of another machine is believed, a holder counts as gone
//! when its Lease was not changed for the whole duration on *our* clock. Each acquisition raises the epoch, which agents check: the election alone
//! would not keep two leaders apart. It may not know what the leader does.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};
use memboss_crds::{Epoch, INCARNATION};
use memboss_platform::shutdown::Shutdown;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::patience::answered;

/// The Lease's name.
const NAME: &str = "memboss-operator";
/// The annotation that counts acquisitions.
const EPOCH: &str = "memboss.dev/epoch";
/// A holder that changed nothing for so long is gone.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long ends itself, well before others may follow.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Time between two looks or renewals.
const RETRY: Duration = Duration::from_secs(2);

/// What is to be done, having seen the Lease as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours: renew.
    Renew,
    /// It is nobody's, or its holder is gone: take it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// What was seen of the Lease, and since when nothing has changed, on our clock.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    version: Option<String>,
    since: Option<Instant>,
}

impl Observed {
    /// Takes in a look at the Lease.
    #[must_use]
    pub fn look(&mut self, lease: &Lease, me: &str, now: Instant) -> Step {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        if holder == me {
            return Step::Renew;
        }
        let quiet = self.since.map_or(Duration::ZERO, |since| now.duration_since(since));
        if holder.is_empty() || quiet >= DURATION { Step::Take } else { Step::Wait }
    }
}

/// Leadership won: the epoch, and the task that keeps it. When the task ends, leadership is lost.
#[derive(Debug)]
pub struct Leadership {
    /// In which epoch.
    pub epoch: Epoch,
    /// Keeps renewing; ends when it is lost.
    pub kept: tokio::task::JoinHandle<()>,
}

/// Waits until this process leads. `None` on shutdown.
///
/// # Errors
/// When the installation's incarnation cannot be read or made.
pub async fn lead(client: &Client, namespace: &str, me: &str, shutdown: &Shutdown) -> Result<Option<Leadership>> {
    let api = Api::<Lease>::namespaced(client.clone(), namespace);
    let mut observed = Observed::default();
    loop {
        match answered("the Lease", attempt(client, &api, me, &mut observed)).await {
            Ok(Some(held)) => {
                let number = epoch_of(&held);
                let incarnation = answered("the incarnation", incarnation(client, namespace)).await?;
                info!(number, incarnation, "this process leads");
                let kept = tokio::spawn(keep(api, held, shutdown.clone()));
                return Ok(Some(Leadership { epoch: Epoch { incarnation, number }, kept }));
            }
            Ok(None) => {}
            Err(error) => warn!(error = &*error, "the election goes on: the Lease could not be read or written"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn attempt(client: &Client, api: &Api<Lease>, me: &str, observed: &mut Observed) -> Result<Option<Lease>> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let mut lease = Lease { metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() }, spec: None };
        begin_count(client, api, &mut lease).await?;
        take(&mut lease, me);
        return won(api.create(&PostParams::default(), &lease).await);
    };
    match observed.look(&lease, me, Instant::now()) {
        Step::Wait => Ok(None),
        // Ours though this process has not led yet cannot be, with a nonce in the name; taking it is right all the same.
        Step::Renew | Step::Take => {
            if counted(&lease).is_none() {
                begin_count(client, api, &mut lease).await?;
            }
            take(&mut lease, me);
            won(api.replace(NAME, &PostParams::default(), &lease).await)
        }
    }
}

/// A write on an older version is refused: somebody else was faster.
fn won(written: Result<Lease, kube::Error>) -> Result<Option<Lease>> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error).context("failed to write the Lease"),
    }
}

fn take(lease: &mut Lease, me: &str) {
    let number = epoch_of(lease) + 1;
    lease.annotations_mut().insert(EPOCH.into(), number.to_string());
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.acquire_time = Some(MicroTime(Timestamp::now()));
    spec.renew_time = Some(MicroTime(Timestamp::now()));
}

async fn begin_count(client: &Client, api: &Api<Lease>, lease: &mut Lease) -> Result<()> {
    let namespace = api.namespace().unwrap_or_default();
    let known = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(INCARNATION).await?;
    lease.annotations_mut().insert(EPOCH.into(), count_begins(known.is_some(), Timestamp::now()).to_string());
    Ok(())
}

/// Where counting begins when there is no Lease, or no count on it: at nothing in a new installation. In one that is known already somebody deleted the Lease, and agents
/// refuse what they have passed; the calendar's seconds are more than any count has reached. No other count rests on a clock.
fn count_begins(known: bool, now: Timestamp) -> u64 {
    if known { u64::try_from(now.as_second()).unwrap_or(0) } else { 0 }
}

fn counted(lease: &Lease) -> Option<u64> {
    lease.annotations().get(EPOCH)?.parse().ok()
}

fn epoch_of(lease: &Lease) -> u64 {
    counted(lease).unwrap_or(0)
}

/// Renews until that fails for too long, somebody else took it, or the shutdown; then gives it back.
async fn keep(api: Api<Lease>, mut held: Lease, shutdown: Shutdown) {
    let mut good = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                if let Some(spec) = held.spec.as_mut() {
                    spec.holder_identity = Some(String::new());
                }
                drop(api.replace(NAME, &PostParams::default(), &held).await);
                return;
            }
            () = tokio::time::sleep(RETRY) => {}
        }
        if let Some(spec) = held.spec.as_mut() {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        // Others count from when it was written, so it is counted here from before that, and no answer is waited for any longer.
        let asked = Instant::now();
        match tokio::time::timeout_at(good + RENEW_WITHIN, renew(&api, &held)).await {
            Ok(Renewed::Yes(lease)) => {
                held = *lease;
                good = asked;
            }
            Ok(Renewed::Arrived(lease)) => held = *lease,
            Ok(Renewed::Lost(holder)) => {
                warn!(holder, "another process leads");
                return;
            }
            Ok(Renewed::Unknown) | Err(_) => {}
        }
        if good.elapsed() >= RENEW_WITHIN {
            warn!("leadership could not be renewed");
            return;
        }
    }
}

/// What came of a renewal.
enum Renewed {
    /// It is written.
    Yes(Box<Lease>),
    /// An earlier one had arrived though its answer did not: to be written again on this version.
    Arrived(Box<Lease>),
    /// Somebody else holds it.
    Lost(Option<String>),
    /// No answer that says anything.
    Unknown,
}

async fn renew(api: &Api<Lease>, held: &Lease) -> Renewed {
    match api.replace(NAME, &PostParams::default(), held).await {
        Ok(lease) => Renewed::Yes(Box::new(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => match api.get(NAME).await {
            Ok(now) if holder(&now) == holder(held) => Renewed::Arrived(Box::new(now)),
            Ok(now) => Renewed::Lost(holder(&now).map(ToOwned::to_owned)),
            Err(_) => Renewed::Unknown,
        },
        // Deleted by somebody: it is made again by whoever is first, this process started anew included.
        Err(kube::Error::Api(status)) if status.code == 404 => Renewed::Lost(None),
        Err(_) => Renewed::Unknown,
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
}

/// Which installation this is: read, or made once. The ConfigMap outlives an uninstall.
async fn incarnation(client: &Client, namespace: &str) -> Result<String> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    for _ in 0..5 {
        if let Some(map) = api.get_opt(INCARNATION).await? {
            return map
                .data
                .and_then(|data| data.get("incarnation").cloned())
                .context("ConfigMap memboss-incarnation has no key 'incarnation'");
        }
        let fresh =
            std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("failed to draw a new incarnation")?;
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(INCARNATION.into()), ..ObjectMeta::default() },
            data: Some([("incarnation".to_owned(), fresh.trim().to_owned())].into()),
            ..ConfigMap::default()
        };
        match api.create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.context("failed to make ConfigMap memboss-incarnation")?),
        }
    }
    bail!("ConfigMap memboss-incarnation comes and goes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() }),
        }
    }

    #[test]
    fn a_holder_is_gone_only_after_it_was_quiet_for_the_whole_duration_on_our_clock() {
        let (mut seen, start) = (Observed::default(), Instant::now());
        assert_eq!(seen.look(&lease("a", "1"), "b", start), Step::Wait);
        assert_eq!(seen.look(&lease("a", "2"), "b", start + DURATION), Step::Wait, "it renewed meanwhile");
        assert_eq!(seen.look(&lease("a", "2"), "b", start + DURATION * 2 - RETRY), Step::Wait);
        assert_eq!(seen.look(&lease("a", "2"), "b", start + DURATION * 2), Step::Take);
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once_and_each_acquisition_raises_the_epoch() {
        assert_eq!(Observed::default().look(&lease("", "1"), "b", Instant::now()), Step::Take);
        let mut taken = lease("", "1");
        take(&mut taken, "b");
        assert_eq!(epoch_of(&taken), 1);
        take(&mut taken, "b");
        assert_eq!(epoch_of(&taken), 2, "also by the same holder");
        assert_eq!(Observed::default().look(&taken, "b", Instant::now()), Step::Renew);
    }

    #[test]
    fn a_count_that_was_lost_goes_on_above_all_that_agents_may_have_seen() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!((count_begins(false, now), count_begins(true, now)), (0, 1_800_000_000));
    }
}
