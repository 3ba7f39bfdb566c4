//! `cargo run -p mlx-sys-bindgen` writes `mlx-sys/src/bindings.rs` anew.

fn main() -> Result<(), String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = mlx_sys_bindgen::generate(&mlx_sys_bindgen::libclang()?, &target)?;
    let file = mlx_sys_bindgen::committed();
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    mlx_sys_bindgen::format(&file)
}
