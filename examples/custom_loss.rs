//! Fine-tunes with a loss of one's own: cross entropy plus a price on confident answers.
//!
//! cargo run --release --example custom_loss -- DATA_DIR

use mlx_lm::decoder::Decoder;
use mlx_lm::train::{self, AdapterConfig, Batch, Dataset, LoraConfig, Trainer};
use std::rc::Rc;

/// Cross entropy minus a tenth of the mean entropy of the predictions.
fn loss(decoder: &Decoder, batch: &Batch) -> mlx_lm::Result<(mlx::Array, mlx::Array)> {
    let (ce, tokens) = train::cross_entropy(decoder, batch)?;
    let inputs = batch.ids.slice_axis(1, 0..batch.ids.dim(1) - 1);
    let logits = decoder.forward_direct(&inputs)?;
    let log_p = &logits - logits.logsumexp_keepdims(-1);
    let entropy = -(log_p.exp() * log_p).sum(-1).mean(());
    Ok((ce - 0.1 * entropy, tokens))
}

fn main() -> anyhow::Result<()> {
    let data = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: custom_loss DATA_DIR"))?;
    let config = LoraConfig { data: data.into(), iters: 20, batch_size: 1, ..Default::default() };
    let mut lm = mlx_lm::load(mlx_lm::hub::resolve(mlx_lm::hub::DEFAULT_MODEL, None, true)?.path)?;
    let train = Dataset::open(&config.data, "train", lm.tokenizer()?, &config)?;
    train::attach(&mut lm.model.decoder, config.fine_tune_type, config.num_layers, &config.lora_parameters)?;
    let (valid, adapter_config) = (Dataset::default(), AdapterConfig::of(&config));
    let decoder = &mut lm.model.decoder;
    let mut trainer =
        Trainer { decoder, config: &config, train: &train, valid: &valid, loss: Rc::new(loss), adapter_config };
    trainer.run(&mut |r| println!("{}: {:?}", r.iteration, r.train_loss), &mut |_| true)?;
    Ok(())
}
