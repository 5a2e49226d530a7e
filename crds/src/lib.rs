//! The custom resources of memboss as Rust types. The YAML that the chart installs is generated from them (`crdgen`). It may hold fields, their checks,
//! and the way to and from the types of `memboss-core`; no rule.

#![expect(unreachable_pub, reason = "what the derive makes is exported below by name")]

mod convert;
mod memory_node;
mod model_load;
mod names;
mod quantity;
mod ram_lease;
mod terms;
mod vram_lease;

use kube::CustomResourceExt;

pub use convert::{Senseless, gpu_share};
pub use memory_node::{
    Cleaning, Gpu, Health, LONGEST_DRAIN_SECONDS, MemoryNode, MemoryNodeSpec, MemoryNodeStatus, Ram, Summary,
};
pub use model_load::{
    Format, ModelLoad, ModelLoadSpec, ModelLoadStatus, ModelOnNode, ModelPhase, ModelPlacement, Runtime, Source, Tier,
};
pub use names::{
    AGENT, AGENT_GPUS_RESOURCE, AGENT_RESOURCE, FINALIZER, FORCE_END, GATE, GROUP, IN_CODE, IN_CODE_LABEL, INCARNATION,
    LEASED_LABEL, OPERATOR, PREFIX, RESOURCE, VERSION,
};
pub use quantity::{NotMemory, parse_mib, parse_mib_if_any, quantity};
pub use ram_lease::{LeaseKind, RAM_MARK, RamLease, RamLeaseSpec, kind_of, object_of};
pub use terms::{Class, Epoch, Layout, Owner};
pub use vram_lease::{
    AllocatedGpu, Allocation, AllocationState, ContainerSlots, GpuAmount, GpuSelector, LeasePhase, Notice, Placement,
    QueueStatus, Slot, Subject, Token, VramLease, VramLeaseSpec, VramLeaseStatus,
};

/// The definitions of all kinds, by the name of the file that each goes into.
///
/// # Errors
/// When one cannot be written as YAML.
pub fn definitions() -> Result<Vec<(&'static str, String)>, serde_saphyr::ser::Error> {
    let yaml = |definition| {
        serde_saphyr::to_string(&definition).map(|yaml| format!("# Generated from crds/src by `make crds`.\n{yaml}"))
    };
    Ok(vec![
        ("vramleases.yaml", yaml(VramLease::crd())?),
        ("ramleases.yaml", yaml(RamLease::crd())?),
        ("modelloads.yaml", yaml(ModelLoad::crd())?),
        ("memorynodes.yaml", yaml(MemoryNode::crd())?),
    ])
}
