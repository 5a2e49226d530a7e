//! What must be seen on a real Kubernetes: run by `make cluster-test`, one test at a time, since they break things. Each brings its own
//! namespace and leaves the bed as it found it.

mod bad_input;
mod faults;
mod in_code;
mod machine;
mod preemption;
mod pressure;
mod ram;
mod shapes;
mod sharing;
