//! Positions that arrays hold: negative ones count from the end, others are clipped; MLX would follow them anywhere.

use crate::refused;
use mlx::{self as mx, Array, Dtype, array, fast};

/// Indices far beyond an axis of three, in every dtype; where they end.
fn wild() -> Vec<(Array, [f32; 3])> {
    let signed = |v: [i64; 3], d| (Array::from(v).astype(d), [30.0, 10.0, 30.0]);
    vec![
        signed([100, -100, -1], Dtype::Int8),
        signed([30_000, -30_000, -1], Dtype::Int16),
        signed([i32::MAX as i64, i32::MIN as i64, -1], Dtype::Int32),
        signed([i64::MAX, i64::MIN, -1], Dtype::Int64),
        (Array::from([255u8, 0, 3]), [30.0, 10.0, 30.0]),
        (Array::from([u16::MAX, 0, 3]), [30.0, 10.0, 30.0]),
        (Array::from([u32::MAX, 0, 3]), [30.0, 10.0, 30.0]),
        (Array::from([u64::MAX, 0, 3]), [30.0, 10.0, 30.0]),
    ]
}

#[test]
fn wild_indices_read_inside() {
    let x = array!([10.0, 20.0, 30.0]);
    for (i, want) in wild() {
        assert_eq!(mx::take(&x, &i, 0).to_vec::<f32>().unwrap(), want, "{i:?}");
        assert_eq!(mx::take(&x, &i, None).to_vec::<f32>().unwrap(), want, "{i:?}");
        assert_eq!(mx::take_along_axis(&x, &i, 0).to_vec::<f32>().unwrap(), want, "{i:?}");
        assert_eq!(x.i(&i).to_vec::<f32>().unwrap(), want, "{i:?}");
        assert_eq!(mx::gather(&x, &[&i], &[0], [1]).to_vec::<f32>().unwrap(), want, "{i:?}");
        let square = mx::broadcast_to(&x, [3, 3]);
        assert_eq!(square.i((&i, &i)).to_vec::<f32>().unwrap(), want, "{i:?}");
    }
}

#[test]
fn wild_indices_write_inside() {
    let zeros = || mx::zeros([3], Dtype::Float32);
    let ones = mx::ones([3], Dtype::Float32);
    for (i, at) in wild() {
        // how often each of the three places is meant
        let count = [10.0, 20.0, 30.0].map(|v| at.iter().filter(|a| **a == v).count() as f32);
        let once = count.map(|c| c.min(1.0));
        assert_eq!(zeros().at(&i).add(1).to_vec::<f32>().unwrap(), count, "{i:?}");
        assert_eq!(mx::scatter_add_axis(&zeros(), &i, &ones, 0).to_vec::<f32>().unwrap(), count, "{i:?}");
        assert_eq!(mx::put_along_axis(&zeros(), &i, &ones, 0).to_vec::<f32>().unwrap(), once, "{i:?}");
        let mut x = zeros();
        x.set(&i, 1);
        assert_eq!(x.to_vec::<f32>().unwrap(), once, "{i:?}");
        let up = mx::ones([3, 1], Dtype::Float32);
        assert_eq!(mx::scatter(&zeros(), &[&i], &up, &[0]).to_vec::<f32>().unwrap(), once, "{i:?}");
    }
}

#[test]
fn moving_slices_stay_inside() {
    let x = mx::arange(0, 10, 1, None);
    for (start, first) in [(-5, 0), (3, 3), (9, 6), (i32::MAX, 6), (i32::MIN, 0)] {
        let s = mx::slice(&x, &array!([start]), &[0], [4]);
        assert_eq!(s.to_vec::<i32>().unwrap()[0], first, "start {start}");
        let u = mx::slice_update(&x, &array!([-1, -1, -1, -1]), &array!([start]), &[0]).to_vec::<i32>().unwrap();
        assert_eq!(u.iter().position(|v| *v == -1), Some(first as usize), "start {start}");
        let g = mx::gather(&x, &[&array!(start.max(0))], &[0], [4]).to_vec::<i32>().unwrap();
        assert!(g.windows(2).all(|w| w[1] == w[0] + 1), "start {start}: {g:?}");
    }
    assert!(refused(|| mx::slice(&x, &array!([0.5]), &[0], [4])).contains("start"));
    assert!(refused(|| mx::slice(&x, &array!([0]), &[1], [4])).contains("axis 1"));
    assert!(refused(|| mx::slice(&x, &array!([0]), &[0], [11])).contains("[11]"));
    assert!(refused(|| mx::slice_update(&x, &mx::zeros([11], Dtype::Int32), &array!([0]), &[0])).contains("[11]"));
    let mut y = x.clone();
    assert!(refused(|| y.update_axis(0, 8..12, &mx::zeros([4], Dtype::Int32))).contains("8..12"));
}

#[test]
fn chosen_matrices_exist() {
    let a = mx::arange(0, 12, 1, None).astype(Dtype::Float32).reshape([3, 2, 2]);
    let eye = mx::broadcast_to(&mx::eye(2, None, 0, Dtype::Float32), [3, 2, 2]);
    let far = array!([0, 99, -7]);
    let y = mx::gather_mm(&a, &eye, Some(&far), Some(&far), false);
    assert_eq!(y.to_vec::<f32>().unwrap(), [0., 1., 2., 3., 8., 9., 10., 11., 0., 1., 2., 3.]);
    let q = mx::Quant::affine(32, 8);
    let (w, s, b) = mx::quantize(&mx::ones([2, 4, 32], Dtype::Float32), q);
    let x = mx::ones([1, 1, 32], Dtype::Float32);
    let g = mx::Gather { rhs: Some(&far), ..Default::default() };
    let y = mx::gather_qmm(&x, &w, &s, b.as_ref(), g, true, q);
    assert!(y.to_vec::<f32>().unwrap().iter().all(|v| (v - 32.0).abs() < 0.2));
}

#[test]
fn segments_outside_of_the_axis_are_clipped_and_do_not_end_the_process() {
    let (a, b) = (mx::ones([2, 4], Dtype::Float32), mx::ones([4, 2], Dtype::Float32));
    let segments = Array::from([[0i32, 4], [2, 99], [-5, 1], [3, 1], [77, 99]].concat()).reshape([5, 2]);
    let y = mx::segmented_mm(&a, &b, &segments);
    let first: Vec<f32> = y.i((.., 0, 0)).to_vec().unwrap();
    assert_eq!(first, [4.0, 2.0, 1.0, 0.0, 0.0]);
    assert!(refused(|| mx::segmented_mm(&a, &b, &array!([0, 1, 2]))).contains("segments"));
}

#[test]
fn targets_of_cross_entropy_are_clipped() {
    let logits = array!([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]);
    let inside = fast::cross_entropy(&logits, &array!([0, 2])).to_vec::<f32>().unwrap();
    assert_eq!(fast::cross_entropy(&logits, &array!([-9, 99])).to_vec::<f32>().unwrap(), inside);
}

#[test]
fn strided_views_need_unsafe_and_matching_lists() {
    let x = mx::arange(0, 12, 1, None);
    // SAFETY: positions 0, 2, 4 + 0, 1 lie within 12 elements
    let y = unsafe { mx::as_strided(&x, [3, 2], &[2, 1], 0) };
    assert_eq!(y.to_vec::<i32>().unwrap(), [0, 1, 2, 3, 4, 5]);
    // SAFETY: refused before anything is read
    assert!(refused(|| unsafe { mx::as_strided(&x, [3, 2], &[1], 0) }).contains("strides"));
}

#[test]
fn indices_are_clipped_under_transforms_too() {
    let x = array!([10.0, 20.0, 30.0]);
    // values that are known while the function is traced, and values that come later
    let f = mx::compile(|(x, i): &(Array, Array)| x.i(i).sum(()));
    for (i, want) in [([0, 1], 30.0), ([99, -99], 40.0), ([-1, 2], 60.0)] {
        assert_eq!(f.call(&(x.clone(), Array::from(i))).item::<f32>().unwrap(), want);
    }
    let rows = mx::vmap(|(x, i): &(Array, Array)| x.i(i));
    let y = rows(&(mx::stack(&[&x, &x], 0), array!([[0, 99], [-99, -1]])));
    assert_eq!(y.to_vec::<f32>().unwrap(), [10.0, 30.0, 10.0, 30.0]);
    let i = array!([99, 0]);
    let g = mx::grad(move |x: &Array| x.i(&i).sum(()));
    assert_eq!(g(&x).to_vec::<f32>().unwrap(), [1.0, 0.0, 1.0]);
    // known and inside, known and outside, not known yet
    let late = array!([1, 98]) + 1;
    for (i, want) in [(array!([0, 2]), [10.0, 30.0]), (array!([3, -4]), [30.0, 10.0]), (late, [30.0, 30.0])] {
        assert_eq!(x.i(&i).to_vec::<f32>().unwrap(), want);
    }
}
