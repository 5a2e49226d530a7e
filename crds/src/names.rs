//! The names that memboss has in a cluster, each in one place. It may hold names only.

/// API group.
pub const GROUP: &str = "memboss.dev";
/// API version.
pub const VERSION: &str = "v1alpha1";
/// The extended resource that the device plugin advertises; one is 256 MiB of VRAM.
pub const RESOURCE: &str = "memboss.dev/vram";
/// What our annotations and labels begin with.
pub const PREFIX: &str = "memboss.dev/";
/// The scheduling gate that holds a pod until its lease is reserved.
pub const GATE: &str = "memboss.dev/lease";
/// The label of every pod of ours, by which watches select.
pub const LEASED_LABEL: &str = "memboss.dev/leased";
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
