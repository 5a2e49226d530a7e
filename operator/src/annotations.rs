//! What a pod may ask for by annotation or resource, and every way to ask wrongly. Pure: it may not know what the cluster has.
//!
//! | annotation `memboss.dev/…` | value |
//! |---|---|
//! | `vram` | `8Gi`, `8000Mi`, bytes, `50%`; `2x8Gi` for two GPUs. For the only ordinary container, or the one that `container` names |
//! | `vram.<container>` | the same, for that container |
//! | `ram` | `16Gi`, `8000Mi`, bytes: host RAM for the pod, alone or in one grant with `vram` |
//! | `container` | which container `vram` or `agent` is for, and whose memory request carries `ram` (the first if none is named) |
//! | `containers` | `share` (default): containers use the same GPUs; `separate`: each its own |
//! | `priority` | `urgent`, `high`, `normal` (default), `low`, `batch` |
//! | `gpu-model` | parts of model names: `H100\|A100` |
//! | `gpu-uuid` | UUIDs, separated by commas |
//! | `layout` | `pack` (default) or `spread` |
//! | `notice`, `protection` | seconds: time between notice and stop (at most 300), protection after becoming active |
//! | `can-shrink`, `can-offload` | `true` if the workload heeds notices so |
//! | `agent` | `true`: the containers (the one that `container` names, else all) reach the node's agent and lease in code; `gpus`: they see all GPUs of the node as well |

use k8s_openapi::api::core::v1::{Container, Pod};
use memboss_core::{Class, Mib, Percent, UNIT};
use memboss_crds::{
    AGENT_GPUS_RESOURCE, AGENT_RESOURCE, ContainerSlots, GpuSelector, Layout, PREFIX, RESOURCE, Slot, parse_mib,
    quantity,
};

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub right: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?} is not possible: {}", self.field, self.value, self.right)
    }
}

/// A right request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Its class.
    pub class: memboss_crds::Class,
    /// What it needs on each GPU.
    pub slots: Vec<Slot>,
    /// Which container uses which slots, with its own part.
    pub containers: Vec<ContainerSlots>,
    /// Its memory on GPUs as people write it; of RAM alone, that.
    pub display: String,
    /// Host RAM.
    pub ram: Option<Mib>,
    /// The container whose memory request carries it.
    pub carrier: String,
    /// Which GPUs will do.
    pub selector: GpuSelector,
    /// Pack or spread.
    pub layout: Layout,
    /// Seconds between notice and stop.
    pub notice: Option<u32>,
    /// Seconds of protection.
    pub protection: Option<u32>,
    /// It can give a part back.
    pub can_shrink: bool,
    /// It can move a part into RAM.
    pub can_offload: bool,
    /// Who of it leases in code.
    pub in_code: Option<InCode>,
}

impl Asked {
    /// Whether the pod asks for a lease of its own.
    #[must_use]
    pub const fn is_lease(&self) -> bool {
        !self.slots.is_empty() || self.ram.is_some()
    }
}

/// Who leases in code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCode {
    /// The resource that lets a container through to the agent.
    pub resource: &'static str,
    /// The containers that need it: whoever has units of GPU memory is let through by those.
    pub containers: Vec<String>,
}

/// One container's ask: so much on each of so many GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ask {
    container: String,
    gpus: usize,
    each: Amount,
}

/// An amount on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So much, rounded up to the unit.
    Fixed(Mib),
    /// A share.
    Share(Percent),
}

const MOST_GPUS: usize = 16;
const AMOUNT: &str =
    "write whole Mi or Gi (8Gi, 8000Mi), a share (50%, from 1% to 100%), or either for several GPUs (2x8Gi, up to 16)";
const RAM: &str = "write whole Mi or Gi: 16Gi, 8000Mi";
/// What may stand after the prefix, beside `vram.<container>`.
pub const KNOWN: [&str; 13] = [
    "vram",
    "ram",
    "container",
    "containers",
    "priority",
    "gpu-model",
    "gpu-uuid",
    "layout",
    "notice",
    "protection",
    "can-shrink",
    "can-offload",
    "agent",
];

/// Whether a pod asks for anything of ours.
#[must_use]
pub fn asks(pod: &Pod) -> bool {
    let annotated = pod.metadata.annotations.iter().flatten().any(|(key, _)| key.starts_with(PREFIX));
    annotated || pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| units_of(container).is_some())
}

/// Reads a pod's request. `Ok(None)` if it makes none.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn read(pod: &Pod) -> Result<Option<Asked>, Vec<Wrong>> {
    let mut reader = Reader { pod, wrong: Vec::new() };
    let asked = reader.read();
    if reader.wrong.is_empty() { Ok(asked) } else { Err(reader.wrong) }
}

struct Reader<'a> {
    pod: &'a Pod,
    wrong: Vec<Wrong>,
}

impl Reader<'_> {
    fn read(&mut self) -> Option<Asked> {
        self.refuse_unknown_names();
        self.refuse_init_containers();
        let asks = self.container_asks();
        let ram = self.ram();
        let in_code = self.in_code(&asks, ram.is_some());
        // With `vram` that was said there.
        if (asks.is_empty() && ram.is_some()) || (in_code.is_some() && self.annotation("vram").is_none()) {
            self.refuse_a_stranger();
        }
        let class = self.class();
        let separate = self.word("containers", &["share", "separate"]).is_some_and(|word| word == "separate");
        let layout = self.word("layout", &["pack", "spread"]);
        let (slots, containers, over) = lay_out(&asks, separate);
        if let Some(sum) = over {
            let right = "containers share their GPUs, and one GPU has 100%: ask for less, or set containers: separate";
            self.complain("vram", &format!("{sum}%"), right);
        }
        if slots.len() > MOST_GPUS {
            self.complain("vram", &slots.len().to_string(), "a lease spans at most 16 GPUs");
        }
        let asked = Asked {
            class: class.into(),
            display: ram.filter(|_| slots.is_empty()).map_or_else(|| display(&slots), quantity),
            ram,
            carrier: self.carrier(),
            slots,
            containers,
            selector: self.selector(),
            layout: if layout.as_deref() == Some("spread") { Layout::Spread } else { Layout::Pack },
            notice: self.seconds("notice", 300),
            protection: self.seconds("protection", 86_400),
            can_shrink: self.flag("can-shrink"),
            can_offload: self.flag("can-offload"),
            in_code,
        };
        if asks.is_empty() && ram.is_some() {
            self.refuse_words_of_gpus();
        } else if asks.is_empty() && asked.in_code.is_some() {
            self.refuse_words_of_leases();
        } else if asks.is_empty() {
            let any = self.pod.metadata.annotations.iter().flatten().find(|(key, _)| key.starts_with(PREFIX));
            if let (Some((key, value)), true) = (any, self.wrong.is_empty()) {
                let right =
                    format!("it asks for no memory: add {PREFIX}vram or {PREFIX}ram, such as 8Gi, or {PREFIX}agent");
                self.wrong.push(Wrong { field: key.clone(), value: value.clone(), right });
            }
            return None;
        }
        Some(asked)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(&format!("{PREFIX}{name}")).map(String::as_str)
    }

    fn complain(&mut self, name: &str, value: &str, right: &str) {
        self.wrong.push(Wrong { field: format!("{PREFIX}{name}"), value: value.to_owned(), right: right.to_owned() });
    }

    fn containers(&self) -> &[Container] {
        self.pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
    }

    /// Ordinary containers and sidecars: who may have units.
    fn eligible(&self) -> Vec<&Container> {
        let init = self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        self.containers().iter().chain(init.filter(|c| is_sidecar(c))).collect()
    }

    fn names(&self) -> String {
        self.eligible().iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn refuse_unknown_names(&mut self) {
        let ours: Vec<_> = self
            .pod
            .metadata
            .annotations
            .iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.strip_prefix(PREFIX)?, v)))
            .collect();
        for (name, value) in ours {
            match name {
                "model" => self.complain(name, value, "this version loads no models: leave it out"),
                _ if KNOWN.contains(&name) || name.starts_with("vram.") => {}
                _ => {
                    let right = format!(
                        "there is no such annotation; what a pod may ask by is {}, vram.<container>",
                        KNOWN.join(", ")
                    );
                    self.complain(name, value, &right);
                }
            }
        }
    }

    fn refuse_init_containers(&mut self) {
        let init =
            self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|c| !is_sidecar(c));
        let init: Vec<_> = init.cloned().collect();
        for container in init {
            let asked = self.annotation(&format!("vram.{}", container.name)).map(ToOwned::to_owned);
            if let Some(value) = asked {
                let right = format!("an init container cannot hold a lease, only {} can (sidecars may)", self.names());
                self.complain(&format!("vram.{}", container.name), &value, &right);
            }
            if let Some(units) = units_of(&container) {
                let field = format!("spec.initContainers[{}].resources.limits[{RESOURCE}]", container.name);
                self.wrong.push(Wrong {
                    field,
                    value: units,
                    right: "an init container cannot hold a lease: ask in an ordinary container".into(),
                });
            }
        }
    }

    fn container_asks(&mut self) -> Vec<Ask> {
        let mut asks: Vec<Ask> = Vec::new();
        if let Some(text) = self.annotation("vram").map(ToOwned::to_owned)
            && let Some(container) = self.pod_level_container(&text)
        {
            asks.extend(self.ask("vram", &text, container));
        }
        let named: Vec<_> =
            self.pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        for (key, text) in named {
            let Some(container) = key.strip_prefix(PREFIX).and_then(|name| name.strip_prefix("vram.")) else {
                continue;
            };
            let field = format!("vram.{container}");
            if self
                .pod
                .spec
                .iter()
                .flat_map(|s| s.init_containers.iter().flatten())
                .any(|c| c.name == container && !is_sidecar(c))
            {
                continue;
            }
            if !self.eligible().iter().any(|c| c.name == container) {
                let right = format!("the pod has no container {container:?}; it has {}", self.names());
                self.complain(&field, &text, &right);
            } else if asks.iter().any(|ask| ask.container == container) {
                self.complain(&field, &text, &format!("{PREFIX}vram asks for the same container: keep one of the two"));
            } else {
                asks.extend(self.ask(&field, &text, container.to_owned()));
            }
        }
        self.resource_asks(&mut asks);
        // In the order of the pod, so that the same pod always gives the same lease.
        let order: Vec<String> = self.eligible().iter().map(|c| c.name.clone()).collect();
        asks.sort_by_key(|ask| order.iter().position(|name| *name == ask.container));
        asks
    }

    /// A container that names units in its resources and has no annotation: that is its request.
    fn resource_asks(&mut self, asks: &mut Vec<Ask>) {
        let with_units: Vec<_> = self.eligible().iter().filter_map(|c| Some((c.name.clone(), units_of(c)?))).collect();
        for (container, text) in with_units {
            if asks.iter().any(|ask| ask.container == container) {
                continue;
            }
            match resource_amount(&text) {
                Some(memory) => asks.push(Ask { container, gpus: 1, each: Amount::Fixed(memory) }),
                None => {
                    let field = format!("spec.containers[{container}].resources.limits[{RESOURCE}]");
                    let right = "a whole number of units of 256Mi, or whole Mi or Gi".to_owned();
                    self.wrong.push(Wrong { field, value: text, right });
                }
            }
        }
    }

    fn ram(&mut self) -> Option<Mib> {
        let text = self.annotation("ram")?.to_owned();
        // Below 2^32 MiB, as every amount.
        let asked = parse_mib(&text).ok().filter(|mib| !mib.is_zero() && mib.mib() < 1 << 32);
        if asked.is_none() {
            self.complain("ram", &text, RAM);
        }
        asked
    }

    /// RAM is the pod's as a whole; the scheduler counts it with a container.
    fn carrier(&mut self) -> String {
        let named = self.annotation("container").map(ToOwned::to_owned);
        if let Some(named) = named.filter(|named| self.eligible().iter().any(|c| c.name == *named)) {
            return named;
        }
        self.containers().first().map(|container| container.name.clone()).unwrap_or_default()
    }

    /// With RAM alone these would be read and mean nothing; a holder of RAM cannot give back a part yet.
    fn refuse_words_of_gpus(&mut self) {
        for name in ["gpu-model", "gpu-uuid", "layout", "containers", "can-shrink", "can-offload"] {
            if let Some(value) = self.annotation(name).map(ToOwned::to_owned) {
                let right =
                    format!("it is about GPUs, and the pod asks for RAM alone: leave it out, or add {PREFIX}vram");
                self.complain(name, &value, &right);
            }
        }
    }

    /// What a pod leases in code comes out of its own lease, if it has one: other GPUs than that one's would be of no use.
    fn in_code(&mut self, asks: &[Ask], has_ram: bool) -> Option<InCode> {
        let word = self.word("agent", &["true", "gpus"])?;
        if word == "gpus" && (has_ram || !asks.is_empty()) {
            let right = "the pod has a lease of its own, and what it leases in code comes out of that: write true";
            self.complain("agent", &word, right);
            return None;
        }
        let all = || self.containers().iter().map(|container| container.name.clone()).collect();
        let named = self.annotation("container").map_or_else(all, |named| vec![named.to_owned()]);
        let has_units = |name: &String| asks.iter().any(|ask| ask.container == *name);
        let resource = if word == "gpus" { AGENT_GPUS_RESOURCE } else { AGENT_RESOURCE };
        Some(InCode { resource, containers: named.into_iter().filter(|name| !has_units(name)).collect() })
    }

    /// Whoever leases in code says these there.
    fn refuse_words_of_leases(&mut self) {
        for name in KNOWN.into_iter().filter(|name| !["container", "priority", "agent"].contains(name)) {
            if let Some(value) = self.annotation(name).map(ToOwned::to_owned) {
                let right = format!(
                    "it is about a lease of its own, and the pod leases in code alone: leave it out, or add {PREFIX}vram or {PREFIX}ram"
                );
                self.complain(name, &value, &right);
            }
        }
    }

    /// Whether `container` names none of the pod's.
    fn refuse_a_stranger(&mut self) -> bool {
        let Some(named) = self.annotation("container").map(ToOwned::to_owned) else { return false };
        let stranger = !self.eligible().iter().any(|c| c.name == named);
        if stranger {
            let right = format!("the pod has no such container; it has {}", self.names());
            self.complain("container", &named, &right);
        }
        stranger
    }

    fn pod_level_container(&mut self, text: &str) -> Option<String> {
        if self.refuse_a_stranger() {
            return None;
        }
        if let Some(named) = self.annotation("container") {
            return Some(named.to_owned());
        }
        match self.containers() {
            [only] => Some(only.name.clone()),
            _ => {
                let right = format!(
                    "the pod has several containers ({}): say which by {PREFIX}container, or ask by {PREFIX}vram.<container>",
                    self.names()
                );
                self.complain("vram", text, &right);
                None
            }
        }
    }

    fn ask(&mut self, field: &str, text: &str, container: String) -> Option<Ask> {
        let parsed = amount(text);
        if parsed.is_none() {
            self.complain(field, text, AMOUNT);
        }
        parsed.map(|(gpus, each)| Ask { container, gpus, each })
    }

    fn class(&mut self) -> Class {
        let Some(word) = self.annotation("priority").map(ToOwned::to_owned) else { return Class::Normal };
        // Lower case only, as everywhere in Kubernetes.
        let class = word.parse::<Class>().ok().filter(|class| class.name() == word);
        class.unwrap_or_else(|| {
            self.complain("priority", &word, "one of urgent, high, normal, low, batch");
            Class::Normal
        })
    }

    fn selector(&mut self) -> GpuSelector {
        let list = |text: Option<&str>, by: char| -> Vec<String> {
            text.map(|t| t.split(by).map(|part| part.trim().to_owned()).collect()).unwrap_or_default()
        };
        let selector = GpuSelector {
            models: list(self.annotation("gpu-model"), '|'),
            uuids: list(self.annotation("gpu-uuid"), ','),
        };
        if selector.models.iter().any(String::is_empty) {
            let text = self.annotation("gpu-model").unwrap_or_default().to_owned();
            self.complain("gpu-model", &text, "parts of model names, separated by |: H100|A100");
        }
        if selector.uuids.iter().any(String::is_empty) {
            let text = self.annotation("gpu-uuid").unwrap_or_default().to_owned();
            self.complain("gpu-uuid", &text, "GPU UUIDs, separated by commas");
        }
        selector
    }

    fn word(&mut self, name: &str, words: &[&str]) -> Option<String> {
        let word = self.annotation(name)?.to_owned();
        if words.contains(&word.as_str()) {
            return Some(word);
        }
        self.complain(name, &word, &format!("one of {}", words.join(", ")));
        None
    }

    fn flag(&mut self, name: &str) -> bool {
        self.word(name, &["true", "false"]).is_some_and(|word| word == "true")
    }

    fn seconds(&mut self, name: &str, most: u32) -> Option<u32> {
        let text = self.annotation(name)?.to_owned();
        let digits = text.strip_suffix('s').unwrap_or(&text);
        let seconds =
            digits.parse::<u32>().ok().filter(|seconds| *seconds <= most && digits.bytes().all(|b| b.is_ascii_digit()));
        if seconds.is_none() {
            self.complain(name, &text, &format!("whole seconds, at most {most}"));
        }
        seconds
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The units that a container names in its resources, as written.
#[must_use]
pub fn units_of(container: &Container) -> Option<String> {
    let resources = container.resources.as_ref()?;
    let named = resources
        .limits
        .as_ref()
        .and_then(|l| l.get(RESOURCE))
        .or(resources.requests.as_ref().and_then(|r| r.get(RESOURCE)));
    named.map(|quantity| quantity.0.clone())
}

/// A plain number below 1Mi is units; anything with a unit, and 1Mi or more, is bytes.
fn resource_amount(text: &str) -> Option<Mib> {
    if let Ok(number) = text.parse::<u64>()
        && number < 1 << 20
    {
        return (number > 0).then(|| Mib::from_mib(number.saturating_mul(UNIT.mib())));
    }
    parse_mib(text).ok().filter(|mib| !mib.is_zero()).map(|mib| mib.round_up_to(UNIT))
}

/// `8Gi`, `2x8Gi`, `50%`: GPUs, and the amount on each.
#[must_use]
pub fn amount(text: &str) -> Option<(usize, Amount)> {
    let (gpus, each) = match text.split_once('x') {
        Some((gpus, each)) => (gpus.bytes().all(|b| b.is_ascii_digit()).then(|| gpus.parse().ok())??, each),
        None => (1, text),
    };
    if !(1..=MOST_GPUS).contains(&gpus) {
        return None;
    }
    if let Some(percent) = each.strip_suffix('%') {
        let whole = percent.bytes().all(|b| b.is_ascii_digit());
        return Percent::new(whole.then(|| percent.parse().ok())??).ok().map(|share| (gpus, Amount::Share(share)));
    }
    let memory = parse_mib(each).ok().filter(|mib| !mib.is_zero() && mib.mib() < 1 << 32)?;
    Some((gpus, Amount::Fixed(memory.round_up_to(UNIT))))
}

/// Slots: containers share GPUs from the first on, or each has its own. The largest sum of shares of one GPU comes too, if it is more than all of it.
fn lay_out(asks: &[Ask], separate: bool) -> (Vec<Slot>, Vec<ContainerSlots>, Option<u64>) {
    let mut sums: Vec<(Mib, u64)> = Vec::new();
    let mut containers = Vec::new();
    for ask in asks {
        let first = if separate { sums.len() } else { 0 };
        let used = first..first + ask.gpus;
        sums.resize(sums.len().max(used.end), (Mib::ZERO, 0));
        let part = match ask.each {
            Amount::Fixed(memory) => Slot { memory: Some(quantity(memory)), percent: None },
            Amount::Share(percent) => Slot { memory: None, percent: Some(percent.get()) },
        };
        for sum in &mut sums[used.clone()] {
            match ask.each {
                Amount::Fixed(memory) => sum.0 = sum.0.plus(memory),
                Amount::Share(percent) => sum.1 += u64::from(percent.get()),
            }
        }
        let slots = used.clone().filter_map(|slot| u32::try_from(slot).ok()).collect();
        containers.push(ContainerSlots {
            name: ask.container.clone(),
            slots,
            asks: used.map(|_| part.clone()).collect(),
        });
    }
    let slot = |(memory, percent): (Mib, u64)| Slot {
        memory: (!memory.is_zero()).then(|| quantity(memory)),
        percent: (percent > 0).then(|| u8::try_from(percent.min(100)).unwrap_or(100)),
    };
    let over = sums.iter().map(|(_, percent)| *percent).max().filter(|percent| *percent > 100);
    (sums.into_iter().map(slot).collect(), containers, over)
}

/// `8Gi`, `2x8Gi`, `8Gi+4Gi`, `50%`.
fn display(slots: &[Slot]) -> String {
    let one = |slot: &Slot| match (&slot.memory, slot.percent) {
        (Some(memory), Some(percent)) => format!("{memory}+{percent}%"),
        (Some(memory), None) => memory.clone(),
        (None, percent) => format!("{}%", percent.unwrap_or_default()),
    };
    let all: Vec<_> = slots.iter().map(one).collect();
    match all.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|other| other == first) => {
            format!("{}x{first}", all.len())
        }
        _ => all.join("+"),
    }
}

#[cfg(test)]
#[path = "annotations_tests.rs"]
mod tests;
