//! A model inside an async program: arrays stay on the engine's thread, tasks await text.
//! `cargo run --release -p mlx-rs-workspace --example async_engine`.

use mlx_lm::chat::Message;
use mlx_lm::engine::{Engine, Options, Prompt};
use mlx_lm::hub;
use std::sync::Arc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // loading blocks, so it does not belong on a thread of the runtime
    let start = || -> mlx_lm::Result<Engine> { Engine::start(hub::resolve(hub::DEFAULT_MODEL, None, true)?.path) };
    let engine = Arc::new(tokio::task::spawn_blocking(start).await??);

    let ask = |question: &'static str| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let prompt = Prompt::Chat(vec![Message::user(question)]);
            let mut events = engine.submit(prompt, Options { max_tokens: 40, ..Options::default() });
            let mut text = String::new();
            while let Some(event) = events.next().await {
                text.push_str(&event?.text);
            }
            Ok::<_, mlx_lm::Error>(format!("{question}\n  {text}"))
        })
    };
    let (france, japan) = (ask("What is the capital of France?"), ask("What is the capital of Japan?"));

    // an answer that nobody waits for is cancelled
    drop(engine.submit(Prompt::Text("Once upon a time".into()), Options { max_tokens: 10_000, ..Options::default() }));

    println!("{}", france.await??);
    println!("{}", japan.await??);
    Ok(())
}
