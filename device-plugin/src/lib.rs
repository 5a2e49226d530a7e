//! The device plugin of a node: advertises VRAM to the kubelet as interchangeable slots, and binds each starting container to the GPUs of its lease
//! by a CDI file; containers that lease in code are let through to the agent (`door`). It decides nothing about leases (the agent does) and talks to no
//! API server, GPU library or Redis.
//!
//! ```text
//!             ListAndWatch, Allocate              Prepare, WatchGpus
//!   kubelet <------------------------> server   ------------------------> agent
//!      ^        PreStartContainer        |  ^
//!      |                                 v  |
//!      +---- podresources List ----- prestart   state = slots (rules) + bindings (names) + checkpoint (disk)
//!      ^                                 |
//!   registration                         +--> source (CDI specs of the GPUs) --> cdi_directory --> container runtime
//! ```

pub mod all_gpus;
pub mod bindings;
pub mod cdi;
pub mod cdi_directory;
pub mod checkpoint;
pub mod door;
pub mod figures;
pub mod gpus;
pub mod lock;
pub mod owner;
pub mod prestart;
pub mod registration;
mod run;
pub mod server;
pub mod settings;
pub mod slots;
pub mod source;
pub mod state;
pub mod watch;
pub mod witness;

pub use run::Plugin;
