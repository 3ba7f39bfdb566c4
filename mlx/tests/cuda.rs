//! CUDA kernels against plain forms in float32; each test says that it was skipped where there is no card.

#[path = "cuda_/adam.rs"]
mod adam;
#[path = "cuda_/decode.rs"]
mod decode;
#[path = "cuda_/latent.rs"]
mod latent;
#[path = "cuda_/linear.rs"]
mod linear;
#[path = "cuda_/recurrent.rs"]
mod recurrent;
#[path = "cuda_/tools.rs"]
mod tools;
