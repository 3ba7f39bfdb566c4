//! Fine-tunes a model on a folder of JSONL files and saves the adapter.
//!
//! cargo run --release --example lora_finetune -- DATA_DIR

use mlx_lm::train::{self, AdapterConfig, Dataset, LoraConfig, Trainer};
use std::rc::Rc;

fn main() -> anyhow::Result<()> {
    let data = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: lora_finetune DATA_DIR"))?;
    let config = LoraConfig { data: data.into(), iters: 100, batch_size: 2, learning_rate: 1e-4, ..Default::default() };
    let mut lm = mlx_lm::load(mlx_lm::hub::resolve(mlx_lm::hub::DEFAULT_MODEL, None, true)?.path)?;
    let set = |name: &str| Dataset::open(&config.data, name, lm.tokenizer()?, &config);
    let (train, valid) = (set("train")?, set("valid")?);

    train::attach(&mut lm.model.decoder, config.fine_tune_type, config.num_layers, &config.lora_parameters)?;
    let adapter_config = AdapterConfig::of(&config);
    let decoder = &mut lm.model.decoder;
    let loss = Rc::new(train::cross_entropy);
    let mut trainer = Trainer { decoder, config: &config, train: &train, valid: &valid, loss, adapter_config };
    trainer.run(&mut |r| println!("{}: {:?} {:?}", r.iteration, r.train_loss, r.val_loss), &mut |_| true)?;
    Ok(())
}
