use crate::tools::{error, fresh_seed, normal};
use mlx::{self as mx, Dtype, Quant};

/// Products with packed matrices for which MLX has no CUDA kernel: short rows, few bits, views of a cache.
#[test]
fn packed_products_of_any_shape_equal_dense_ones() {
    fresh_seed();
    let short = [(2, 32, 64), (3, 32, 32), (4, 32, 32), (8, 32, 64), (4, 64, 128)];
    // each kernel of MLX's for 16 bits takes long to compile: one is enough
    for (dtype, formats, bound) in [(Dtype::Float32, &short[..], 1e-5), (Dtype::Bfloat16, &short[4..], 2e-2)] {
        for &(bits, group, width) in formats {
            let q = Quant::affine(group, bits);
            let cache = normal(&[2, 3, 64, width], dtype, 1.0);
            let (w, s, b) = mx::quantize(&cache, q);
            let seen = |a: &mx::Array| a.slice_axis(2, 0..40);
            let (w, s, b) = (seen(&w), seen(&s), seen(&b.unwrap()));
            let dense = mx::dequantize(&w, &s, Some(&b), q, Some(Dtype::Float32));
            for rows in [1, 40] {
                let (x, y) = (normal(&[2, 3, rows, width], dtype, 1.0), normal(&[2, 3, rows, 40], dtype, 1.0));
                let scores = mx::quantized_matmul(&x, &w, &s, Some(&b), true, q);
                let oracle = x.astype(Dtype::Float32).matmul(&dense.swapaxes(-1, -2));
                assert!(error(&scores, &oracle) < bound, "{dtype:?} {bits} {group} {rows}");
                let values = mx::quantized_matmul(&y, &w, &s, Some(&b), false, q);
                let oracle = y.astype(Dtype::Float32).matmul(&dense);
                assert!(error(&values, &oracle) < bound, "{dtype:?} {bits} {group} {rows}");
            }
        }
    }
}
