//! Where the time of one decoded token goes: ops of its graph, host time to build them, time to evaluate them, bytes
//! that must be read, and the time that these bytes alone take on this device.

use super::{median, random_ids};
use crate::decoder::{Decoder, eval_caches};
use crate::generate::prefill;
use crate::{Error, Result};
use mlx::nn::ModuleExt;
use mlx::{self as mx, Array, Device, Dtype, memory};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// Medians over decoded tokens, without look-ahead so that building and evaluating do not overlap.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Profile {
    /// Tokens in the cache.
    pub context: usize,
    /// Tokens measured.
    pub tokens: usize,
    /// Ops in the graph of one token.
    pub ops: usize,
    /// The same by kind, compiled chains as one.
    pub ops_by_name: BTreeMap<String, usize>,
    /// Host time to build the graph, ms.
    pub build_ms: f64,
    /// Time to evaluate it and read the token, ms.
    pub eval_ms: f64,
    /// Waits for the device per token.
    pub host_syncs: usize,
    /// Bytes of arrays that a token leaves behind: growth of the caches, else 0.
    pub growth_bytes: i64,
    /// Bytes of weights: all experts of a mixture, a tied embedding table once (as the head), a separate one not.
    pub weight_bytes: usize,
    /// Bytes of the caches' arrays.
    pub cache_bytes: usize,
    /// Read bandwidth of this device, GB/s.
    pub bandwidth_gb_s: f64,
    /// Time that reading these bytes takes at that bandwidth, ms.
    pub floor_ms: f64,
}

/// Profiles decoding after a prompt of `context` random tokens.
pub fn profile(decoder: &Decoder, context: usize, tokens: usize) -> Result<Profile> {
    if context == 0 || tokens == 0 {
        return Err(Error::Request("a profile needs at least one prompt token and one token".into()));
    }
    let mut caches = decoder.caches()?;
    let ids = random_ids(decoder.blueprint().vocab, context);
    prefill(decoder, &ids, &mut caches, 2048, &mut |_, _| {}, context)?;
    let mut current = Array::from_slice(&ids[..1], [1, 1]);
    let (mut build, mut eval, mut ops) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut active = Vec::new();
    // the first steps compile kernels and grow buffers
    for i in 0..tokens + 2 {
        let start = Instant::now();
        let next = mx::catch(|| decoder.forward_last(&current, &mut caches).argmax(-1).astype(Dtype::Uint32))?;
        let built = start.elapsed();
        if i == 1 {
            // the caches' new arrays are on the way to the token; asking a cache for them may compute them
            ops = mx::graph_ops(std::slice::from_ref(&next));
        }
        let start = Instant::now();
        mx::async_eval([&next])?;
        next.item::<u32>()?;
        let evaluated = start.elapsed();
        eval_caches(&caches)?;
        if i >= 2 {
            build.push(built.as_secs_f64() * 1e3);
            eval.push(evaluated.as_secs_f64() * 1e3);
            active.push(memory::active_memory() as i64);
        }
        current = mx::catch(|| next.reshape([1, 1]))?;
    }
    let weight_bytes = weight_bytes(decoder);
    let cache_bytes = caches.iter().map(|c| c.nbytes()).sum();
    let bandwidth = read_bandwidth()?;
    Ok(Profile {
        context,
        tokens,
        ops: ops.values().sum(),
        ops_by_name: ops,
        build_ms: median(build),
        eval_ms: median(eval),
        host_syncs: 1,
        growth_bytes: match (active.first(), active.last()) {
            (Some(a), Some(b)) if active.len() > 1 => (b - a) / (active.len() as i64 - 1),
            _ => 0,
        },
        weight_bytes,
        cache_bytes,
        bandwidth_gb_s: bandwidth / 1e9,
        floor_ms: (weight_bytes + cache_bytes) as f64 / bandwidth * 1e3,
    })
}

/// Bytes of all parameters, less an embedding table that is only looked up.
fn weight_bytes(decoder: &Decoder) -> usize {
    let blueprint = decoder.blueprint();
    let (embed, head) = (format!("{}.", blueprint.embed.path), format!("{}.", blueprint.head.path));
    let parameters = decoder.parameters();
    let tied = !parameters.iter().any(|(k, _)| k.starts_with(&head));
    parameters.iter().filter(|(k, _)| tied || !k.starts_with(&embed)).map(|(_, a)| a.nbytes()).sum()
}

/// Bytes per second at which the current device reads memory: the best of some passes over 256 MiB.
pub fn read_bandwidth() -> Result<f64> {
    const BYTES: usize = 256 << 20;
    let mut best = 0.0f64;
    let mut pass = |read: &dyn Fn() -> Result<()>| -> Result<()> {
        for _ in 0..6 {
            let start = Instant::now();
            read()?;
            best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
        }
        Ok(())
    };
    match mx::default_device() {
        Device::Cpu => {
            let data = vec![1u64; BYTES / 8];
            pass(&|| {
                let sum: u64 = data.par_chunks(1 << 16).map(|c| c.iter().fold(0, |a, b| a ^ b)).sum();
                std::hint::black_box(sum);
                Ok(())
            })?;
        }
        Device::Gpu(_) => {
            let data = mx::catch(|| mx::ones([(BYTES / 4096) as i32, 1024], Dtype::Float32))?;
            data.eval()?;
            pass(&|| {
                mx::catch(|| data.max(()))?.item::<f32>()?;
                Ok(())
            })?;
        }
    }
    Ok(best)
}
