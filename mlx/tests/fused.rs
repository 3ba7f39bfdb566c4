//! Fused kernels of the default device, a CUDA card or the CPU, against plain forms in float32. Those that only CUDA has
//! say that they were skipped where there is no card.

#[path = "fused_/adam.rs"]
mod adam;
#[path = "fused_/cpu.rs"]
mod cpu;
#[path = "fused_/decode.rs"]
mod decode;
#[path = "fused_/latent.rs"]
mod latent;
#[path = "fused_/linear.rs"]
mod linear;
#[path = "fused_/low_rank.rs"]
mod low_rank;
#[path = "fused_/packed.rs"]
mod packed;
#[path = "fused_/products.rs"]
mod products;
#[path = "fused_/recurrent.rs"]
mod recurrent;
#[path = "fused_/rope.rs"]
mod rope;
#[path = "fused_/tools.rs"]
mod tools;
