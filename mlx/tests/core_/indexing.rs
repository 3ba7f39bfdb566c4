//! Expected values come from Python's MLX 0.32.2.

use mlx::{self as mx, Array, Dtype, ELLIPSIS, NEW_AXIS, array, catch, step};

fn x() -> Array {
    mx::arange(0, 60, 1, None).reshape([3, 4, 5])
}

fn check(got: &Array, shape: &[i32], first: &[i32], sum: i64) {
    assert_eq!(got.shape(), shape);
    let v = got.to_vec::<i32>().unwrap();
    assert_eq!(v[..first.len()], *first);
    assert_eq!(v.iter().map(|&i| i as i64).sum::<i64>(), sum);
}

#[test]
fn reads_follow_python() {
    let (x, a, b) = (x(), array!([0, -1]), array!([[1], [2]]));
    check(&x.i((1, 2, -1)), &[], &[34], 34);
    check(&x.i((&a, &b)), &[2, 2, 5], &[5, 6, 7, 8, 9, 45, 46], 590);
    check(&x.i((&a, .., &b)), &[2, 2, 4], &[1, 6, 11, 16, 41], 464);
    check(&x.i((0, .., &a)), &[2, 4], &[0, 5, 10, 15, 4, 9], 76);
    check(&x.i((.., &a)), &[3, 2, 5], &[0, 1, 2, 3, 4, 15], 885);
    check(&x.i((step(.., -1), 1..3, &b)), &[3, 2, 2, 1], &[46, 47, 51, 52, 26], 348);
    check(&x.i((NEW_AXIS, 1, ELLIPSIS, NEW_AXIS, &a, NEW_AXIS)), &[2, 1, 4, 1, 1], &[20, 25, 30, 35, 24], 236);
    check(&x.i((-7..2, step(.., -3), step(5..1, -2))), &[2, 2, 2], &[19, 17, 4, 2, 39], 164);
    check(&x.i((ELLIPSIS, step(10..-10, -1))), &[3, 4, 5], &[4, 3, 2, 1, 0, 9], 1770);
    check(&x.i((0, &a, 1..3)), &[2, 2], &[1, 2, 16, 17], 36);
    check(&x.i((&a, NEW_AXIS, &b)), &[2, 2, 1, 5], &[5, 6, 7, 8, 9, 45], 590);
    check(&x.i([1, 2]), &[2, 4, 5], &[20, 21, 22], 1580);
    check(&x.i((0, 1..=2, ..=-2)), &[2, 4], &[5, 6, 7, 8, 10], 72);
    check(&x.i((2.., 5..)), &[1, 0, 5], &[], 0);
    check(&x.i(NEW_AXIS), &[1, 3, 4, 5], &[0, 1], 1770);
}

#[test]
fn assignments_follow_python() {
    let (a, b) = (array!([0, -1]), array!([[1], [2]]));
    let set = |f: &dyn Fn(&mut Array)| {
        let mut y = x();
        f(&mut y);
        y
    };
    let seq = |n, shape: &[i32]| mx::arange(0, n, 1, None).reshape(shape);
    check(&set(&|y| y.set((0, .., &a), seq(8, &[4, 2]))), &[3, 4, 5], &[0, 1, 2, 3, 1, 2, 6, 7], 1722);
    check(&set(&|y| y.set((.., &a), seq(30, &[3, 2, 5]))), &[3, 4, 5], &[0, 1, 2, 3, 4, 5, 6, 7], 1320);
    check(&set(&|y| y.set((step(.., -1), &a), seq(30, &[3, 2, 5]))), &[3, 4, 5], &[20, 21, 22, 23, 24, 5], 1320);
    check(&set(&|y| y.set((&a, 1..3, &b), seq(8, &[2, 2, 2]))), &[3, 4, 5], &[0, 1, 2, 3, 4, 5, 0, 4], 1566);
    check(
        &set(&|y| y.set((.., 1, step(.., -2)), array!([7, 8, 9]))),
        &[3, 4, 5],
        &[0, 1, 2, 3, 4, 9, 6, 8, 8, 7],
        1599,
    );
    let mut h = mx::zeros([3], Dtype::Bfloat16);
    h.set(1, array!(2.5));
    h.set(array!([true, false, false]), 1.5);
    assert_eq!((h.dtype(), h.to_vec::<f32>().unwrap()), (Dtype::Bfloat16, vec![1.5, 2.5, 0.0]));
}

#[test]
fn at_counts_repeated_positions() {
    let z = mx::zeros([3], Dtype::Int32);
    assert_eq!(z.at([0, 0, 2, 0]).add(array!([1, 2, 3, 4])).to_vec::<i32>().unwrap(), [7, 0, 3]);
    assert_eq!((z + 5).at(1..).subtract(array!([1, 2])).to_vec::<i32>().unwrap(), [5, 4, 3]);
    let m = array!([1.0, 2.0, 3.0]);
    assert_eq!(m.at([1, 1]).multiply(2).to_vec::<f32>().unwrap(), [1.0, 8.0, 3.0]);
    assert_eq!(m.at(ELLIPSIS).divide(2).to_vec::<f32>().unwrap(), [0.5, 1.0, 1.5]);
    assert_eq!(m.at([2, 2]).maximum(array!([9.0, 5.0])).to_vec::<f32>().unwrap(), [1.0, 2.0, 9.0]);
    assert_eq!(m.at(step(.., 2)).minimum(2).to_vec::<f32>().unwrap(), [1.0, 2.0, 2.0]);
}

#[test]
fn wrong_indices_panic_or_are_clipped() {
    let x = x();
    let text = |f: &dyn Fn() -> Array| catch(f).unwrap_err().to_string();
    let e = text(&|| x.i((0, 4)));
    assert!(e.contains("index 4") && e.contains("axis 1") && e.contains("[3, 4, 5]"), "{e}");
    assert!(text(&|| x.i((0, 0, 0, 0))).contains("too many"));
    assert!(text(&|| x.i(x.gt(3))).contains("integers"));
    assert!(text(&|| x.i((ELLIPSIS, ELLIPSIS))).contains("ellipsis"));
    assert!(text(&|| mx::zeros([0, 2], Dtype::Float32).i([0])).contains("empty"));
    assert!(text(&|| x.at(0).add(mx::ones([2, 5], Dtype::Int32))).contains("[2, 5]"));
    let wild = Array::from([i32::MAX, i32::MIN, -4, 3]);
    assert_eq!(x.i((&wild, 0, 0)).to_vec::<i32>().unwrap(), [40, 0, 0, 40]);
    let bytes = mx::arange(0, 300, 1, None).i(Array::from([255u8, 1]));
    assert_eq!(bytes.to_vec::<i32>().unwrap(), [255, 1]);
    let mut y = mx::zeros([2], Dtype::Int32);
    y.set(&wild, 1);
    assert_eq!(y.to_vec::<i32>().unwrap(), [1, 1]);
}
