//! Results that no memory holds, results without elements, and very deep graphs.

use crate::refused;
use mlx::{self as mx, Array, Dtype, Scan, array};

#[test]
fn results_beyond_memory_are_refused_before_they_are_computed() {
    let big = 1 << 22;
    let wide = mx::broadcast_to(&array!(1.0), [1 << 20, 1 << 20]);
    let cases: Vec<(&str, Box<dyn Fn() -> Array>)> = vec![
        ("ones", Box::new(move || mx::ones([big, big], Dtype::Float32))),
        ("ones", Box::new(|| mx::ones([i32::MAX, i32::MAX, i32::MAX], Dtype::Uint8))),
        ("multiply", Box::new(move || &mx::ones([big, 1], Dtype::Float32) * mx::ones([1, big], Dtype::Float32))),
        ("outer", Box::new(move || mx::outer(mx::ones([big], Dtype::Float32), mx::ones([big], Dtype::Float32)))),
        ("add", Box::new(move || &wide + 1.0)),
        ("tile", Box::new(move || mx::tile(&array!([1.0, 2.0]), [big, big]))),
        ("repeat", Box::new(|| mx::repeat(&mx::ones([1 << 20], Dtype::Float32), i32::MAX, None))),
        ("pad", Box::new(|| mx::pad(&array!([[1.0]]), &[(1 << 23, 0), (1 << 23, 0)], 0, mx::PadMode::Constant))),
        ("eye", Box::new(move || mx::eye(big, None, 0, Dtype::Float32))),
        ("diag", Box::new(|| mx::diag(&array!([1.0]), i32::MAX))),
        ("uniform", Box::new(move || mx::random::uniform(0, 1, [big, big], Dtype::Float32, None))),
        ("arange", Box::new(|| mx::arange(0.0, 1e15, 1, None))),
    ];
    for (op, f) in cases {
        let e = refused(&*f);
        assert!(e.contains(op) || e.contains("arange"), "{op}: {e}");
    }
    // a product of views whose number of elements would overflow 64 bits to zero
    let a = mx::broadcast_to(&array!(1.0), [1 << 20, 1 << 20, 1, 1]);
    let b = mx::broadcast_to(&array!(1.0), [1 << 20, 1 << 20]);
    assert!(refused(|| &a * &b).contains("memory"));
    // large views that nobody computes are fine
    assert_eq!(mx::broadcast_to(&array!(1.0), [1 << 19, 1 << 19]).i((5, 7)).item::<f32>().unwrap(), 1.0);
}

#[test]
fn arrays_without_elements_reduce_to_constants() {
    let e = mx::zeros([0, 3], Dtype::Float32);
    assert_eq!(e.sum(()).item::<f32>().unwrap(), 0.0);
    assert_eq!(e.prod(0).to_vec::<f32>().unwrap(), [1.0; 3]);
    assert!(e.mean(()).item::<f32>().unwrap().is_nan());
    assert!(e.var(()).item::<f32>().unwrap().is_nan());
    assert!(e.all(()).item::<bool>().unwrap() && !e.any(()).item::<bool>().unwrap());
    assert_eq!(mx::count_nonzero(&e, ()).item::<i32>().unwrap(), 0);
    assert_eq!(mx::trace(&mx::ones([2, 2], Dtype::Int32), 9, 0, 1, None).item::<i32>().unwrap(), 0);
    let same: Vec<Array> = vec![
        e.cumsum(0),
        mx::cumprod_with(&e, 1, Scan { reverse: true, ..Scan::default() }),
        e.softmax(0),
        mx::sort(&e, 0),
        mx::argsort(&e, 0),
        mx::flip(&e, 0),
        e.matmul(&mx::zeros([3, 3], Dtype::Float32)),
        mx::random::permutation(&e, 0, None),
    ];
    for a in same {
        assert_eq!((a.shape(), a.eval().is_ok()), (&[0, 3][..], true));
    }
    assert_eq!(
        mx::zeros([2, 0], Dtype::Float32).matmul(&mx::zeros([0, 2], Dtype::Float32)).to_vec::<f32>().unwrap(),
        [0.0; 4]
    );
    assert!(refused(|| mx::argmax(&e, 0)).contains("argmax"));
    assert!(refused(|| e.logsumexp(0)).contains("empty"));
    let mut x = array!([1.0, 2.0]);
    x.set(mx::zeros([0], Dtype::Int32), mx::zeros([0], Dtype::Float32));
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn a_graph_of_half_a_million_ops_is_computed_and_freed_on_a_small_stack() {
    let run = || {
        let mut y = array!(0.0);
        for _ in 0..500_000 {
            y += 1.0;
        }
        let unused = y.clone() + 1.0;
        assert_eq!(y.item::<f32>().unwrap(), 500_000.0);
        drop((y, unused));
        let mut z = array!(0.0);
        for _ in 0..500_000 {
            z = z.reshape([1]).reshape(());
        }
        drop(z);
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap().join().unwrap();
}
