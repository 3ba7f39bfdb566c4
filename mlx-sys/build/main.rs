//! Gets MLX and mlx-c, compiles mlx-c with our shim into one libmlxc in the per-user cache, and links it.
//! `env` reads the settings, `cache` holds what is made once, `fetch` brings things in, `mlx` finds MLX,
//! `mlxc` compiles, `link` tells cargo.

mod cache;
mod env;
mod fetch;
mod link;
mod mlx;
mod mlxc;

fn main() {
    if let Err(e) = build() {
        eprintln!("\nmlx-sys: {e}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=../vendor");
    let env = env::Env::read()?;
    let cache = cache::Cache::lock(&env.cache)?;
    let mlx = mlx::find(&env, &cache)?;
    let root = mlxc::build(&env, &cache, &mlx)?;
    link::tell(&env, &mlx, &root);
    Ok(())
}
