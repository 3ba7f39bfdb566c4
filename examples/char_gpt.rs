//! A small GPT over characters: `cargo run --release --example char_gpt [TEXT_FILE]` (mlx-examples' `transformer_lm`).

use mlx::nn::{self, Embedding, LayerNorm, Linear, Module, MultiHeadAttention, losses};
use mlx::optim::{AdamW, Optimizer};
use mlx::{self as mx, Array, Dtype, ELLIPSIS, random};

const TEXT: &str = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs. ";

#[derive(Module)]
struct Block {
    ln1: LayerNorm,
    attention: MultiHeadAttention,
    ln2: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module)]
struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    ln: LayerNorm,
}

impl Gpt {
    fn new(vocab: i32, context: i32, dims: i32, layers: usize) -> Self {
        let norm = || LayerNorm::init(dims, 1e-5, true, true);
        let block = |_| Block {
            ln1: norm(),
            attention: MultiHeadAttention::init(dims, 4),
            ln2: norm(),
            up: Linear::init(dims, 4 * dims, true),
            down: Linear::init(4 * dims, dims, true),
        };
        Gpt {
            tokens: Embedding::init(vocab, dims),
            positions: Embedding::init(context, dims),
            blocks: (0..layers).map(block).collect(),
            ln: norm(),
        }
    }

    /// ids: [B, L] -> logits [B, L, V]
    fn forward(&self, ids: &Array) -> Array {
        let l = ids.dim(-1);
        let mask = MultiHeadAttention::create_additive_causal_mask(l, Dtype::Float32);
        let mut x = self.tokens.forward(ids) + self.positions.forward(&mx::arange(0, l, 1, None));
        for b in &self.blocks {
            let y = b.ln1.forward(&x);
            x = x + b.attention.forward(&y, &y, &y, Some(&mask));
            x = &x + b.down.forward(&nn::gelu(&b.up.forward(&b.ln2.forward(&x))));
        }
        self.tokens.as_linear(&self.ln.forward(&x))
    }
}

pub fn main() -> anyhow::Result<()> {
    let text = match std::env::args().nth(1).filter(|path| std::path::Path::new(path).is_file()) {
        Some(path) => std::fs::read_to_string(path)?,
        None => TEXT.repeat(20),
    };
    let mut chars: Vec<char> = text.chars().collect();
    let stream = chars.clone();
    chars.sort_unstable();
    chars.dedup();
    let id = |c: &char| chars.binary_search(c).unwrap_or(0) as i32;
    let ids: Vec<i32> = stream.iter().map(id).collect();
    let data = Array::from(ids);

    random::seed(0);
    let context = 32;
    let mut model = Gpt::new(chars.len() as i32, context, 32, 2);
    let mut optimizer = AdamW::new(1e-2);
    let step = nn::value_and_grad(|m: &Gpt, (x, y): &(Array, Array)| losses::cross_entropy(&m.forward(x), y).mean(()));

    let mut last = f32::INFINITY;
    for i in 0..140 {
        let starts = random::randint(0, data.dim(0) - context - 1, [16, 1], Dtype::Int32, None);
        let windows = data.take(&(starts + mx::arange(0, context + 1, 1, None)), 0);
        let batch = (windows.i((.., ..context)), windows.i((.., 1..)));
        let (loss, grads) = step(&mut model, &batch);
        optimizer.update(&mut model, &grads);
        mx::eval(optimizer.state().values().chain([&loss]))?;
        last = loss.item()?;
        if i % 20 == 0 {
            println!("step {i:3}: loss {last:.3}");
        }
    }

    let mut out: Vec<i32> = "the ".chars().map(|c| id(&c)).collect();
    for _ in 0..40 {
        let tail = &out[out.len().saturating_sub(context as usize)..];
        let logits = model.forward(&Array::from(tail).reshape([1, -1])).i((ELLIPSIS, -1, ..));
        out.push(mx::argmax(&logits, -1).item::<u32>()? as i32);
    }
    println!("{}", out.iter().map(|&i| chars[i as usize]).collect::<String>());
    anyhow::ensure!(last < 1.0, "loss {last}");
    Ok(())
}
