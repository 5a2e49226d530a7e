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

mod amounts;
mod containers;

use k8s_openapi::api::core::v1::Pod;
use memboss_core::{Class, Mib};
use memboss_crds::{ContainerSlots, GpuSelector, Layout, PREFIX, Slot, parse_mib, quantity};

pub use self::amounts::{Amount, amount};
use self::amounts::{MOST_GPUS, display, lay_out};
pub use self::containers::units_of;

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

    fn ram(&mut self) -> Option<Mib> {
        let text = self.annotation("ram")?.to_owned();
        // Below 2^32 MiB, as every amount.
        let asked = parse_mib(&text).ok().filter(|mib| !mib.is_zero() && mib.mib() < 1 << 32);
        if asked.is_none() {
            self.complain("ram", &text, RAM);
        }
        asked
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

#[cfg(test)]
mod tests;
