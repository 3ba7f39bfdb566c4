//! Streams an answer: `cargo run --release -p mlx-rs-workspace --example generate -- "Why is the sky blue?" [MODEL]`.

use mlx_lm::generate::{Sampler, TokenOptions};
use mlx_lm::{StreamOptions, chat::Message, hub};
use std::io::Write;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let prompt = args.next().unwrap_or_else(|| "Why is the sky blue?".into());
    let model = args.next().unwrap_or_else(|| hub::DEFAULT_MODEL.into());

    let lm = mlx_lm::load(hub::resolve(&model, None, true)?.path)?;
    let ids = lm.chat_ids(&[Message::system("You answer in one short paragraph."), Message::user(prompt)])?;

    let mut sampler = Sampler::temperature(0.7).seeded(0);
    sampler.top_p = 0.9;
    let tokens = TokenOptions { max_tokens: Some(120), sampler, ..TokenOptions::default() };
    let options = StreamOptions { tokens, ..StreamOptions::default() };

    let mut caches = lm.caches()?;
    let mut stats = None;
    for response in lm.stream(&ids, &mut caches, options)? {
        let response = response?;
        print!("{}", response.text);
        std::io::stdout().flush()?;
        stats = Some(response.stats);
    }
    if let Some(stats) = stats {
        println!("\n\n{stats}");
    }
    Ok(())
}
