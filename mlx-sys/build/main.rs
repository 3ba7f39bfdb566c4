//! Gets MLX and mlx-c, compiles mlx-c and our shim into one libmlxc in the per-user cache, and links it.
//!
//! `env` reads the settings, `cache` holds what is made once, `fetch` brings things in through pip and
//! cargo, `host` looks at the machine, `mlx` (with `blas` and `source`) finds MLX, `mlxc` compiles, `link`
//! tells cargo, `messages` says what to do when something is missing. `docs/install.md` is the user's side.

mod blas;
mod cache;
mod env;
mod fetch;
mod host;
mod link;
mod messages;
mod mlx;
mod mlxc;
mod source;

fn main() {
    // the offline switches decide whether a build succeeds, not what comes of it
    for name in env::VARIABLES.iter().filter(|n| !n.ends_with("OFFLINE")) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for path in ["build", "shim", "../vendor"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Err(e) = build() {
        eprintln!("\nmlx-sys: {e}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let env = env::Env::read(|name| std::env::var_os(name))?;
    if !env.link {
        link::tell_nothing();
        return Ok(());
    }
    if env.macos() && std::env::var_os("MACOSX_DEPLOYMENT_TARGET").is_none() {
        // MLX's own floor; for older systems the C++ library hides what the headers use
        // SAFETY: the build script has one thread
        unsafe { std::env::set_var("MACOSX_DEPLOYMENT_TARGET", "14.0") };
    }
    let cache = cache::Cache::new(&env.cache);
    let mlx = mlx::find(&env, &cache)?;
    let library = mlxc::build(&env, &cache, &mlx)?;
    link::tell(&env, &mlx, &library);
    Ok(())
}
