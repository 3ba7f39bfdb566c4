//! A conversation whose cache is kept between turns: `cargo run --release -p mlx-rs-workspace --example chat`.

use mlx_lm::{StreamOptions, generate::Session, hub};
use std::io::{Write, stdin, stdout};

fn main() -> anyhow::Result<()> {
    let lm = mlx_lm::load(hub::resolve(hub::DEFAULT_MODEL, None, true)?.path)?;
    let mut session = Session::new(&lm, Some("You are a helpful assistant."))?;
    loop {
        print!("> ");
        stdout().flush()?;
        let mut line = String::new();
        if stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        // only the new turn is processed: the cache holds the earlier ones
        session.send(line.trim(), StreamOptions::default(), &mut |r| {
            print!("{}", r.text);
            stdout().flush().is_ok()
        })?;
        println!("\n[{} tokens in the cache]", session.cached());
    }
}
