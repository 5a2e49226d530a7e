//! The plugin's state in memory, its copy on disk, and the device list that follows from it. All answers to the kubelet come from here;
//! it asks nobody. Rules are in `slots` and `bindings`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memboss_agent_api::v1::{Gpu, GpuList, Health as GpuHealth};
use memboss_core::Mib;
use memboss_kubelet_api::deviceplugin::Device;
use memboss_kubelet_api::{HEALTHY, UNHEALTHY};
use memboss_platform::admin::{Condition, Readiness};
use tokio::sync::watch;

use crate::bindings::Bindings;
use crate::cdi_directory::CdiDirectory;
use crate::checkpoint::{Checkpoint, Found, Saved, SavedGpu};
use crate::figures::{Advertised, Figures, OfHealth};
use crate::slots::{GpuState, Health, KnownGpu, SlotId, SlotSet, advertise, count};

/// The device list as the kubelet is sent it.
pub type Devices = Arc<Vec<Device>>;

/// See the module.
#[derive(Debug)]
pub struct State {
    multiple: u32,
    inner: Mutex<Inner>,
    checkpoint: Checkpoint,
    /// The newest version on disk; held while writing.
    written: Arc<tokio::sync::Mutex<u64>>,
    devices: watch::Sender<Devices>,
    figures: Figures,
    slots_condition: Condition,
    checkpoint_condition: Condition,
}

#[derive(Debug)]
struct Inner {
    bindings: Bindings,
    gpus: BTreeMap<String, SeenGpu>,
    /// Raised by each change that belongs on disk.
    version: u64,
}

#[derive(Clone, Copy, Debug)]
struct SeenGpu {
    gpu: KnownGpu,
    /// Whether the agent named it to this process; else it is only remembered.
    seen: bool,
}

impl State {
    /// Reads the checkpoint, or rebuilds what can be from the CDI directory. Never fails: the plugin must be there for the kubelet.
    ///
    /// GPUs last seen count as usable until the agent answers, in whatever state they were: after a reboot the kubelet rejects for good, within a
    /// second, every pod whose slots are not healthy, while a start on a lost GPU is still refused by `PreStartContainer`.
    #[must_use]
    pub fn open(
        multiple: u32,
        checkpoint: Checkpoint,
        cdi: &CdiDirectory,
        readiness: &Readiness,
        figures: Figures,
    ) -> Arc<Self> {
        let saved = match checkpoint.load() {
            Found::Saved(saved) => *saved,
            Found::Nothing => rebuilt(cdi),
            Found::Unusable(why) => {
                let saved = rebuilt(cdi);
                tracing::error!(
                    error = chain(&why),
                    names = saved.bindings.all_names().len(),
                    "rebuilt the checkpoint from the CDI directory; pods whose slots are in none of its files must be made anew"
                );
                saved
            }
        };
        cdi.sweep(&saved.bindings.all_names());
        let remembered = |gpu: &SavedGpu| {
            let known = KnownGpu { leasable: Mib::from_mib(gpu.leasable_mib), state: GpuState::Usable };
            (gpu.uuid.clone(), SeenGpu { gpu: known, seen: false })
        };
        let gpus = saved.gpus.iter().map(remembered).collect();
        let state = Arc::new(Self {
            multiple,
            inner: Mutex::new(Inner { bindings: saved.bindings, gpus, version: 0 }),
            checkpoint,
            written: Arc::default(),
            devices: watch::Sender::new(Devices::default()),
            figures,
            slots_condition: readiness.condition("slots"),
            checkpoint_condition: readiness.condition("checkpoint"),
        });
        state.checkpoint_condition.ready();
        state.publish(&state.lock());
        state
    }

    /// The device list, now and on every change.
    #[must_use]
    pub fn devices(&self) -> watch::Receiver<Devices> {
        self.devices.subscribe()
    }

    /// New CDI names for these sets of slots, on disk before this returns. A disk that fails costs only what a reboot would lose,
    /// while an error here would fail the pod for good; so it is reported and the names are given all the same.
    pub async fn allocate(&self, sets: &[SlotSet]) -> Vec<Option<String>> {
        let (names, version) = self.change(|inner| sets.iter().map(|slots| inner.bindings.name(slots)).collect());
        self.figures.allocations.inc_by(sets.len() as u64);
        self.save(version).await;
        names
    }

    /// The CDI names that these slots were given, newest last: their container is about to start.
    #[must_use]
    pub fn names(&self, slots: &SlotSet) -> Option<Vec<String>> {
        let mut inner = self.lock();
        inner.bindings.touch(slots);
        inner.bindings.names(slots).map(<[String]>::to_vec)
    }

    /// Notes the GPUs of the lease that these slots serve.
    pub async fn bind(&self, slots: &SlotSet, gpus: Vec<String>) {
        let (news, version) = self.change(|inner| inner.bindings.bind(slots, gpus));
        if news {
            self.save(version).await;
        }
    }

    /// Takes the agent's view of the GPUs.
    pub async fn observe(&self, list: &GpuList) {
        let (news, version) = self.change(|inner| {
            let before = saved_gpus(&inner.gpus);
            inner.gpus.values_mut().for_each(|gpu| gpu.gpu.state = GpuState::Lost);
            list.gpus.iter().for_each(|gpu| inner.see(gpu));
            // As long as the driver has told nothing, nothing is known to be gone.
            if !list.unread {
                inner.forget_removed();
            }
            before != saved_gpus(&inner.gpus)
        });
        if news {
            self.save(version).await;
        }
    }

    /// Takes the kubelet's view of which slots are in use; drops what nobody can ask for any more, and the files that nobody needs now: the runtime
    /// reads all of them for each container.
    pub async fn look(&self, used: &BTreeSet<SlotId>, cdi: &CdiDirectory) {
        let (news, version) = self.change(|inner| {
            let news = inner.bindings.look(used);
            inner.forget_removed();
            cdi.sweep(&inner.bindings.used_names());
            news
        });
        if news {
            self.save(version).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave it half changed in a way that matters more than going on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> (T, u64) {
        let mut inner = self.lock();
        let result = change(&mut inner);
        inner.version += 1;
        self.publish(&inner);
        (result, inner.version)
    }

    fn publish(&self, inner: &Inner) {
        let gpus = inner.gpus.iter().map(|(uuid, seen)| (uuid.clone(), seen.gpu)).collect();
        match count(self.multiple, &gpus) {
            Ok(_) => {
                self.figures.too_many.set(0);
                self.slots_condition.ready();
            }
            Err(refusal) => {
                if self.figures.too_many.set(1) == 0 {
                    tracing::error!(%refusal, "no slots are offered");
                }
                self.slots_condition.not_ready(refusal.to_string());
            }
        }
        let slots = advertise(self.multiple, &gpus, &inner.bindings.holders());
        for (label, health) in [(Advertised::Healthy, Health::Healthy), (Advertised::Unhealthy, Health::Unhealthy)] {
            let number = slots.values().filter(|h| **h == health).count();
            self.figures
                .slots
                .get_or_create(&OfHealth { health: label })
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        let devices: Devices = Arc::new(slots.into_iter().map(device).collect());
        self.devices.send_if_modified(|current| {
            let news = **current != *devices;
            *current = devices;
            news
        });
    }

    /// Brings at least `version` to disk. The lock moves into the writing thread: a call that the kubelet gives up must not let two writes overlap.
    async fn save(&self, version: u64) {
        let mut written = Arc::clone(&self.written).lock_owned().await;
        if *written >= version {
            return;
        }
        let (saved, newest) = {
            let inner = self.lock();
            (Saved { bindings: inner.bindings.clone(), gpus: saved_gpus(&inner.gpus) }, inner.version)
        };
        let checkpoint = self.checkpoint.clone();
        let task = tokio::task::spawn_blocking(move || {
            let result = checkpoint.store(&saved);
            if result.is_ok() {
                *written = newest;
            }
            result
        });
        match task.await {
            Ok(Ok(())) => self.checkpoint_condition.ready(),
            Ok(Err(failure)) => self.report_unwritten(&chain(&failure)),
            Err(error) => self.report_unwritten(&error.to_string()),
        }
    }

    fn report_unwritten(&self, error: &str) {
        tracing::error!(error, "slots were given without a trace on disk; a reboot now would lose their names");
        self.figures.checkpoint_failures.inc();
        self.checkpoint_condition.not_ready(error);
    }
}

impl Inner {
    fn see(&mut self, gpu: &Gpu) {
        let lost = gpu.health() == GpuHealth::Lost;
        let remembered = self.gpus.get(&gpu.uuid).map_or(Mib::ZERO, |seen| seen.gpu.leasable);
        // A lost GPU may show no memory; its slots keep their number.
        let leasable = if lost && gpu.leasable_mib == 0 { remembered } else { Mib::from_mib(gpu.leasable_mib) };
        let state = if lost { GpuState::Lost } else { GpuState::Usable };
        self.gpus.insert(gpu.uuid.clone(), SeenGpu { gpu: KnownGpu { leasable, state }, seen: true });
    }

    /// A GPU that only an earlier process saw and that nothing is bound to was taken out of the node.
    fn forget_removed(&mut self) {
        let bindings = &self.bindings;
        self.gpus.retain(|uuid, seen| seen.seen || seen.gpu.state == GpuState::Usable || bindings.binds(uuid));
    }
}

fn saved_gpus(gpus: &BTreeMap<String, SeenGpu>) -> Vec<SavedGpu> {
    let saved =
        |(uuid, seen): (&String, &SeenGpu)| SavedGpu { uuid: uuid.clone(), leasable_mib: seen.gpu.leasable.mib() };
    gpus.iter().map(saved).collect()
}

/// What the files of containers started since the boot still tell. The count goes on from a random number, so that no old name can come again.
fn rebuilt(cdi: &CdiDirectory) -> Saved {
    let random = RandomState::new().build_hasher().finish() >> 24;
    let mut bindings = Bindings::starting_at(random);
    for told in cdi.told() {
        bindings.adopt(told.slots, told.names, told.gpus);
    }
    Saved { bindings, gpus: Vec::new() }
}

fn device((slot, health): (SlotId, Health)) -> Device {
    let health = match health {
        Health::Healthy => HEALTHY,
        Health::Unhealthy => UNHEALTHY,
    };
    Device { id: slot.to_string(), health: health.to_owned(), topology: None }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
