//! The raw binding, tried directly: arithmetic, error text, the shim's facts, CPU kernels as operations,
//! and where the loader finds the library.

#[path = "sys/cpu_op.rs"]
mod cpu_op;
#[path = "sys/errors.rs"]
mod errors;
#[path = "sys/facts.rs"]
mod facts;
#[path = "sys/loader.rs"]
mod loader;
#[path = "sys/support.rs"]
mod support;
