//! LoRA on a small transformer: the base stays frozen, adapters learn, and are fused at the end.

use mlx::nn::{self, Embedding, LayerMut, Linear, Module, ModuleExt, Path, TransformerEncoder, losses};
use mlx::optim::{Adam, Optimizer};
use mlx::{self as mx, Array, Dtype, random};

#[derive(Module)]
struct Classifier {
    embed: Embedding,
    encoder: TransformerEncoder,
    head: Linear,
}

impl Classifier {
    /// ids: [B, L] -> [B, 2]
    fn forward(&self, ids: &Array) -> Array {
        self.head.forward(&self.encoder.forward(&self.embed.forward(ids), None).mean(1))
    }
}

pub fn main() -> anyhow::Result<()> {
    random::seed(3);
    let mut model = Classifier {
        embed: Embedding::init(16, 16),
        encoder: TransformerEncoder::init(1, 16, 2, nn::TransformerOptions::default()),
        head: Linear::init(16, 2, true),
    };

    // freeze everything, then give the attention projections and the head a low-rank update that is trained
    model.freeze();
    model.layers_mut(&mut Path::new(), &mut |path, layer| {
        if let LayerMut::Linear(l) = layer
            && (path.contains("attention") || path == "head")
        {
            l.add_lora(4, 10.0, 0.0);
        }
    });
    let count = |list: Vec<(String, Array)>| list.iter().map(|(_, a)| a.size()).sum::<usize>();
    println!("training {} of {} parameters", count(model.trainable()), model.num_parameters());

    // are the tokens from the upper half of the alphabet? one in six is not
    let batch = |n: i32| {
        let y = random::randint(0, 2, [n, 1], Dtype::Int32, None);
        let noise = random::bernoulli(1.0 / 6.0, Some([n, 6].into()), None);
        let half = mx::where_(noise, 1 - &y, &y);
        (half * 8 + random::randint(0, 8, [n, 6], Dtype::Int32, None), y.squeeze(1))
    };
    let step =
        nn::value_and_grad(|m: &Classifier, (x, y): &(Array, Array)| losses::cross_entropy(&m.forward(x), y).mean(()));
    let frozen = model.embed.weight().to_bytes()?;
    let mut optimizer = Adam::new(3e-3);
    for i in 0..150 {
        let (loss, grads) = step(&mut model, &batch(32));
        optimizer.update(&mut model, &grads);
        mx::eval(optimizer.state().values())?;
        if i % 30 == 0 {
            println!("step {i:3}: loss {:.3}", loss.item::<f32>()?);
        }
    }
    anyhow::ensure!(model.embed.weight().to_bytes()? == frozen, "the base moved");

    let (x, y) = batch(200);
    let before = model.forward(&x);
    model.layers_mut(&mut Path::new(), &mut |_, mut layer| layer.fuse(false));
    let same = mx::allclose(&before, model.forward(&x), 1e-3, 1e-3, false).item::<bool>()?;
    let accuracy = mx::argmax(&before, -1).eq(&y).mean(()).item::<f32>()?;
    println!("accuracy {accuracy:.3}; fused: {}", model.parameters().iter().all(|(n, _)| !n.contains("lora")));
    anyhow::ensure!(same && accuracy > 0.85, "accuracy {accuracy}, fused model the same: {same}");
    Ok(())
}
