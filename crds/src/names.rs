//! The names that memboss has in a cluster, each in one place. It may hold names only.

/// API group.
pub const GROUP: &str = "memboss.dev";
/// API version.
pub const VERSION: &str = "v1alpha1";
/// The extended resource that the device plugin advertises; one is 256 MiB of VRAM.
pub const RESOURCE: &str = "memboss.dev/vram";
/// The resource of a container that reaches its node's agent, to lease in code; there are plenty.
pub const AGENT_RESOURCE: &str = "memboss.dev/agent";
/// The same, with all GPUs of the node.
pub const AGENT_GPUS_RESOURCE: &str = "memboss.dev/agent-gpus";
/// What our annotations and labels begin with.
pub const PREFIX: &str = "memboss.dev/";
/// The scheduling gate that holds a pod until its lease is reserved.
pub const GATE: &str = "memboss.dev/lease";
/// The label of every pod of ours, by which watches select: `true` on one that asks for a lease.
pub const LEASED_LABEL: &str = "memboss.dev/leased";
/// What that label says of a pod that has no lease of its own and leases in code.
pub const IN_CODE: &str = "in-code";
/// The label of the objects that show leases in code. Its value is `own` where the lease takes memory of the node, `part` where it is a part of its pod's lease.
pub const IN_CODE_LABEL: &str = "memboss.dev/in-code";
/// The finalizer that keeps a lease until its memory was seen free.
pub const FINALIZER: &str = "memboss.dev/memory-free";
/// The annotation by which an administrator ends a lease whatever holds its memory.
pub const FORCE_END: &str = "memboss.dev/force-end";
/// The ConfigMap that says which installation this is; it survives an uninstall.
pub const INCARNATION: &str = "memboss-incarnation";
/// The operator's field manager.
pub const OPERATOR: &str = "memboss-operator";
/// The agents' field manager.
pub const AGENT: &str = "memboss-agent";
