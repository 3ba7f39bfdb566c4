//! Modules, layers, optimizers and files.
#[path = "nn_/files.rs"]
mod files;
#[path = "nn_/layers.rs"]
mod layers;
#[path = "nn_/modules.rs"]
mod modules;
#[path = "nn_/optimizers.rs"]
mod optimizers;
#[path = "nn_/sharding.rs"]
mod sharding;

/// Asserts that two lists of numbers agree within `tolerance`, absolute and relative.
fn assert_close(a: &mlx::Array, b: &mlx::Array, tolerance: f64) {
    assert_eq!(a.shape(), b.shape());
    let (x, y) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
    for (i, (x, y)) in x.iter().zip(&y).enumerate() {
        assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "element {i}: {x} and {y}");
    }
}

/// Distinct numbers in a range, without a random generator.
fn numbers(shape: &[i32], low: f32, high: f32) -> mlx::Array {
    let n: i32 = shape.iter().product();
    let v: Vec<f32> = (0..n).map(|i| low + (high - low) * ((i * 37 + 11) % 101) as f32 / 101.0).collect();
    mlx::Array::from_slice(&v, shape)
}
