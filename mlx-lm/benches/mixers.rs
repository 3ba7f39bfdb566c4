//! Prefill of each sequence mixer beside softmax attention of the same size: `OPENBLAS_NUM_THREADS=1 cargo bench -p mlx-lm
//! --bench mixers [-- KIND ..]`. Random weights, float32, one row of 2,048 tokens, 16 heads of 64, published shapes
//! otherwise. Times are the processor's where the system tells them (in hundredths of a second, on Linux), so that what
//! else runs on the machine counts little; the best of some rounds, mixers in turn.

use mlx::nn::Path;
use mlx::{self as mx, Array, Dtype};
use mlx_lm::blueprint::*;
use mlx_lm::cache;
use mlx_lm::parts::{Mixer, Registry, Step};
use mlx_lm::weights::{Leaves, RandomWeights};
use std::time::Instant;

const TOKENS: i32 = 2048;
const HIDDEN: i32 = 1024;
const HEADS: i32 = 16;
const DIM: i32 = HIDDEN / HEADS;
const ROUNDS: usize = 2;

fn kinds() -> Vec<(&'static str, Box<dyn Spec>)> {
    let norm = Norm::rms(1e-5);
    let heads = |conv: bool| LinearHeads {
        conv: conv.then_some(ShortConvs { taps: 4, bias: false }),
        ..LinearHeads::bare(HIDDEN, HEADS, DIM, DIM)
    };
    let swish = || HeadOutput::swish(norm, true, true);
    let delta = || DeltaHeads {
        hidden: HIDDEN,
        key_heads: HEADS,
        value_heads: HEADS,
        key_dim: DIM,
        value_dim: DIM,
        conv: Some(4),
        conv_bias: false,
        negative_eigenvalues: false,
        eps: 1e-5,
    };
    let rope = || Rope::plain(DIM, 10_000.0);
    let attention = Attention::new(HIDDEN, HEADS, HEADS, DIM).rope(rope());
    let gla = Gla {
        heads: heads(false),
        forget: Forget::Narrow(16),
        normalizer: 16.0,
        clamp_min: None,
        feature_map: None,
        output: swish(),
    };
    let retnet = Retention { heads: heads(false), feature_map: None, rope: Some(rope()), output: swish() };
    let gsa = Gsa {
        heads: heads(false),
        slots: 64,
        normalizer: 8.0,
        scale: 1.0,
        feature_map: Some(SlotMap::Act(Activation::Silu)),
        output: SlotOutput::Normed("g_norm".into(), norm),
    };
    let gated_delta = GatedDelta { heads: delta(), layout: GatedDeltaLayout::Separate, gate: true };
    let kda = Kda {
        heads: delta(),
        qkv: QkvNames::separate(),
        lower_bound: None,
        decay: Projection::low_rank("f_proj.0", "f_proj.1", DIM),
        gate: Projection::low_rank("g_proj.0", "g_proj.1", DIM),
    };
    let rwkv7 = Rwkv7 {
        hidden: HIDDEN,
        heads: HEADS,
        values: HIDDEN,
        first: true,
        ranks: Rwkv7Ranks { w: 64, a: 64, v: 32, g: 128 },
        unit: UnitNorm::AtLeast(1e-12),
        eps: 64e-5,
    };
    let lightning = Lightning::bare(HIDDEN, HEADS, DIM);
    let mamba = Mamba {
        hidden: HIDDEN,
        inner: 2 * HIDDEN,
        state: 16,
        kernel: 4,
        dt_rank: HIDDEN / 16,
        bias: false,
        conv_bias: true,
        norms: MambaNorms::None,
    };
    let mamba2 = Mamba2 {
        hidden: HIDDEN,
        heads: 2 * HEADS,
        head_dim: DIM,
        state: 128,
        groups: 1,
        kernel: 4,
        bias: [false; 2],
        conv_bias: true,
        dt_limit: (0.0, f32::INFINITY),
        eps: 1e-5,
        norm: GatedNorm::Whole,
        gate_first: true,
        skip: Skip::PerHead,
        dt_bias: true,
    };
    let nsa = Nsa {
        hidden: HIDDEN,
        heads: HEADS,
        kv_heads: 1,
        head_dim: DIM,
        v_head_dim: DIM,
        bias: false,
        blocks: NsaBlocks { size: 64, count: 16, window: Some(512) },
        rope: Some(rope()),
    };
    let moba = Moba {
        hidden: HIDDEN,
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: DIM,
        bias: false,
        qk_norm: None,
        block: 256,
        count: 4,
        dense_decode: false,
        rope: Some(rope()),
        output: HeadOutput::bare(),
    };
    vec![
        ("full_attention", Box::new(attention)),
        ("retnet", Box::new(retnet)),
        ("lightning", Box::new(lightning)),
        ("gla", Box::new(gla)),
        ("gsa", Box::new(gsa)),
        ("deltanet", Box::new(DeltaNet::published(heads(true), norm))),
        ("gated_deltanet", Box::new(gated_delta)),
        ("kda", Box::new(kda)),
        ("rwkv7", Box::new(rwkv7)),
        ("mamba", Box::new(mamba)),
        ("mamba2", Box::new(mamba2)),
        ("rg_lru", Box::new(RgLru { hidden: HIDDEN, inner: HIDDEN, heads: HEADS, kernel: 4 })),
        ("conv", Box::new(ShortConv { hidden: HIDDEN, kernel: 3, bias: false })),
        ("nsa", Box::new(nsa)),
        ("moba", Box::new(moba)),
    ]
}

/// One mixer, and the best time of a prompt, in seconds.
struct Row {
    name: &'static str,
    mixer: Box<dyn Mixer>,
    cache: CacheKind,
    prefill: f64,
}

impl Row {
    fn new(name: &'static str, spec: &dyn Spec, registry: &Registry) -> Row {
        let leaves = Leaves::random(RandomWeights::new(Dtype::Float32), None);
        let mixer = registry.build_mixer(spec, &leaves).expect(name);
        let mut weights = Vec::new();
        mixer.visit(&mut Path::new(), &mut |_, p| weights.push(p.value().clone()));
        mx::eval(&weights).expect("weights");
        Row { name, mixer, cache: spec.cache(), prefill: f64::INFINITY }
    }

    /// One round: the prompt into a fresh cache.
    fn run(&mut self, prompt: &Array) {
        let mut cache = cache::make(&self.cache).expect("a cache");
        let ids = mx::zeros([1, prompt.dim(1)], Dtype::Int32);
        let start = Clock::now();
        let mut all = vec![self.mixer.forward(prompt, &Step::new(&ids), cache.as_mut())];
        cache.each(&mut |a| all.push(a.clone()));
        mx::eval(&all).expect("a pass");
        self.prefill = self.prefill.min(start.elapsed());
    }
}

/// A time of the processor, or of the wall.
struct Clock {
    wall: Instant,
    processor: Option<f64>,
}

impl Clock {
    fn now() -> Clock {
        Clock { wall: Instant::now(), processor: processor_time() }
    }
    fn elapsed(&self) -> f64 {
        match (self.processor, processor_time()) {
            (Some(from), Some(to)) => to - from,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}

/// Seconds that all threads of this process have run.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| only.is_empty() || name == "full_attention" || only.iter().any(|o| o == name);
    let registry = Registry::builtin();
    let kinds = kinds().into_iter().filter(|(name, _)| wanted(name));
    let mut rows: Vec<Row> = kinds.map(|(name, spec)| Row::new(name, spec.as_ref(), &registry)).collect();
    let prompt = mx::random::normal([1, TOKENS, HIDDEN], Dtype::Float32, 0.0, 1.0, None);
    prompt.eval().expect("a prompt");
    for _ in 0..ROUNDS {
        rows.iter_mut().for_each(|r| r.run(&prompt));
    }
    let attention = rows[0].prefill;
    println!("| mixer | prefill of {TOKENS}, ms | / softmax attention |");
    println!("|---|---:|---:|");
    for r in &rows {
        println!("| {} | {:.0} | {:.1} |", r.name, 1e3 * r.prefill, r.prefill / attention);
    }
}
