//! The heart of the array layer: values, weak scalars, errors, threads, memory.
mod core_ {
    pub mod distributed;
    // slices that walk down start above their end
    #[allow(clippy::reversed_empty_ranges)]
    pub mod indexing;
    pub mod kernels;
    pub mod memory;
    pub mod names;
    pub mod threads;
    pub mod values;
}
