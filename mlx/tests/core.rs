//! The heart of the array layer: values, weak scalars, errors, threads, memory.
mod core_ {
    pub mod indexing;
    pub mod memory;
    pub mod threads;
    pub mod values;
}
