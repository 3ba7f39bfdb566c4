use mlx::{self as mx, Dtype, memory};

#[test]
fn a_million_arrays_leave_nothing_behind() {
    let x = mx::ones([16], Dtype::Float32);
    x.eval().unwrap();
    let before = memory::active_memory();
    for i in 0..10_000 {
        let mut y = &x + i;
        for _ in 0..99 {
            y = &y * 1.0;
        }
        if i % 100 == 0 {
            y.eval().unwrap();
        }
    }
    mx::synchronize().unwrap();
    // other tests of this binary run beside this one
    assert!(memory::active_memory() <= before + (1 << 20), "{} -> {}", before, memory::active_memory());
}
