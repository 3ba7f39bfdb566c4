//! How far ahead of a GPU the host may run while a long prompt is processed.

use mlx::{Device, default_device, memory};

/// Least room for arrays of a graph under way.
const LEAST: usize = 2 << 30;

/// While this lives, MLX waits for the GPU once arrays take half as much again as they did at first, at least 2 GiB more:
/// otherwise the dense copies of packed weights, which products of many rows need, are all made before the first is used.
pub(super) struct Headroom(Option<usize>);

impl Headroom {
    pub(super) fn new() -> Headroom {
        if default_device() == Device::Cpu {
            return Headroom(None);
        }
        let (active, before) = (memory::active_memory(), memory::memory_limit());
        Headroom(Some(memory::set_memory_limit(before.min(active + (active / 2).max(LEAST)))))
    }
}

impl Drop for Headroom {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            memory::set_memory_limit(before);
        }
    }
}
