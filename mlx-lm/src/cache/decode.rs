//! Caches that a kernel appends to and reads at once.

use mlx::fast::{Columns, DecodeAttention, LatentAttention, Layer};
use mlx::{Array, Dtype};

/// Keys and values that a step of one token per row appends to and reads in one kernel, where there is one.
pub trait Decode {
    /// Whether [`decode`](Self::decode) is one kernel here for a batch of `rows` tokens of this dtype.
    fn is_decodable(&self, rows: i32, dtype: Dtype, a: &DecodeAttention<'_>) -> bool;
    /// A branch of attention of one new token per row of x [B, 1, D]: projections, whose keys and values are appended,
    /// attention, output.
    fn decode(&mut self, x: &Array, before: Layer<'_>, a: &DecodeAttention<'_>, after: Layer<'_>) -> Array;
    /// Whether [`decode_latent`](Self::decode_latent) has kernels here.
    fn is_latent_decodable(&self, _rows: i32, _dtype: Dtype, _a: &LatentAttention<'_>) -> bool {
        false
    }
    /// Latent attention of one new token per row, as [`KvBuffers::attend_latent`](mlx::fast::KvBuffers::attend_latent); `None`
    /// leaves the cache as it was.
    fn decode_latent(
        &mut self,
        _q: Columns<'_>,
        _q_latent: &Array,
        _kv: Columns<'_>,
        _a: &LatentAttention<'_>,
    ) -> Option<Array> {
        None
    }
}
