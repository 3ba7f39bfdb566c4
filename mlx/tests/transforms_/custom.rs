use mlx::{self as mx, Array, CustomFunction, array};
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn checkpoint_computes_again_and_gives_the_same_gradient() {
    let calls = Rc::new(Cell::new(0));
    let n = calls.clone();
    let f = mx::checkpoint(move |(w, x): &(Array, Array)| {
        n.set(n.get() + 1);
        (w * x).tanh().sum(())
    });
    let (w, x) = (array!([0.5, -1.0]), array!([1.0, 2.0]));
    let g = mx::grad(|w: &Array| f(&(w.clone(), x.clone())) * 2.0)(&w);
    let expected: Vec<f32> = [(0.5f64, 1.0f64), (-1.0, 2.0)]
        .iter()
        .map(|(w, x)| (2.0 * x * (1.0 - (w * x).tanh().powi(2))) as f32)
        .collect();
    g.to_vec::<f32>().unwrap().iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    assert!(calls.get() >= 2, "{} calls", calls.get());
    drop(f);
    mx::synchronize().unwrap();
    drop(g);
    assert_eq!(Rc::strong_count(&calls), 1);
}

#[test]
fn custom_derivatives_replace_those_of_mlx() {
    let f = CustomFunction::new(|(x, y): &(Array, Array)| x * y)
        .vjp(|(x, y), c: &Array, out| {
            assert_eq!(out.shape(), x.shape());
            (c * y * 10.0, c * x * 100.0)
        })
        .jvp(|(x, y), (dx, dy)| dx * y * 2.0 + dy * x * 3.0);
    let args = (array!([1.0, 2.0]), array!([3.0, 4.0]));
    let (gx, gy) = mx::grad(|a: &(Array, Array)| f.call(a).sum(()))(&args);
    assert_eq!(gx.to_vec::<f32>().unwrap(), [30.0, 40.0]);
    assert_eq!(gy.to_vec::<f32>().unwrap(), [100.0, 200.0]);
    let (y, t) = mx::jvp(|a| f.call(a), &args, &(array!([1.0, 1.0]), array!([0.0, 1.0])));
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 8.0]);
    assert_eq!(t.to_vec::<f32>().unwrap(), [6.0, 8.0 + 6.0]);
    // only one argument is differentiated: the other's tangent is zero
    let (_, t) = mx::jvp(|x: &Array| f.call(&(x.clone(), args.1.clone())), &args.0, &array!([1.0, 1.0]));
    assert_eq!(t.to_vec::<f32>().unwrap(), [6.0, 8.0]);
}

#[test]
fn a_custom_vmap_is_used() {
    let f = CustomFunction::new(|x: &Array| x.sum(())).vmap(|x: &Array, axes: &[Option<i32>]| {
        assert_eq!(axes, [Some(1)]);
        (x.sum(0) * 10.0, vec![Some(0)])
    });
    let y = mx::vmap_axes(|x: &Array| f.call(x), 1, 0)(&array!([[1.0, 2.0], [3.0, 4.0]]));
    assert_eq!(y.to_vec::<f32>().unwrap(), [40.0, 60.0]);
    assert_eq!(f.call(&array!([1.0, 2.0])).item::<f32>().unwrap(), 3.0);
}

#[test]
fn wrong_custom_functions_are_refused_and_leak_nothing() {
    let kept = Rc::new(());
    let capture = kept.clone();
    let few = CustomFunction::new(|(x, y): &(Array, Array)| x * y).vjp(move |(x, _), _c: &Array, _| {
        let _capture = &capture;
        (x.clone(), array!([1.0, 2.0, 3.0]))
    });
    let args = (array!([1.0, 2.0]), array!([3.0, 4.0]));
    let e = mx::catch(|| mx::grad(|a: &(Array, Array)| few.call(a).sum(()))(&args)).err().unwrap().to_string();
    assert!(e.contains("gradients of shapes [[2], [3]]"), "{e}");
    let empty = CustomFunction::new(|_: &Array| Vec::<Array>::new()).vjp(|x, _, _| x.clone());
    assert!(mx::catch(|| empty.call(&array!(1.0))).unwrap_err().to_string().contains("nothing"));
    drop(few);
    assert_eq!(Rc::strong_count(&kept), 1);
}

#[test]
fn ten_thousand_closures_leave_nothing_behind() {
    let kept = Rc::new(());
    for i in 0..10_000 {
        let c = kept.clone();
        let f = CustomFunction::new(move |x: &Array| {
            let _c = &c;
            x * 2.0
        })
        .vjp(|_, c: &Array, _| c.clone());
        let g = mx::grad(|x: &Array| f.call(x).sum(()))(&array!([1.0, 2.0]));
        if i % 1000 == 0 {
            assert_eq!(g.to_vec::<f32>().unwrap(), [1.0, 1.0]);
        }
    }
    assert_eq!(Rc::strong_count(&kept), 1);
}

#[test]
fn vmap_maps_the_axes_it_is_told() {
    let x = array!([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let w = array!([1.0, 10.0]);
    let f = |(x, w): &(Array, Array)| (x * w).sum(());
    let y = mx::vmap_axes(f, [Some(1), None], 0)(&(x.clone(), w.clone()));
    assert_eq!(y.to_vec::<f32>().unwrap(), [41.0, 52.0, 63.0]);
    let y = mx::vmap_axes(|x: &Array| x * 2.0, 0, 1)(&x);
    assert_eq!(y.shape(), [3, 2]);
    let y = mx::vmap_axes(|x: &Array| (x * 2.0, x.sum(())), -1, [-1, 0])(&x);
    assert_eq!((y.0.shape(), y.1.shape()), (&[2, 3][..], &[3][..]));
    let e = mx::catch(|| mx::vmap(f)(&(x.clone(), array!([1.0, 2.0, 3.0])))).unwrap_err().to_string();
    assert!(e.contains("[2, 3]") && e.contains("[3]"), "{e}");
    assert!(mx::catch(|| mx::vmap_axes(f, [Some(2), None], 0)(&(x.clone(), w.clone()))).is_err());
    // gradients of each example by itself
    let g =
        mx::vmap_axes(|(x, w): &(Array, Array)| mx::grad(|w: &Array| (x * w).sum(()).square())(w), [Some(1), None], 0)(
            &(x, w),
        );
    assert_eq!(g.to_vec::<f32>().unwrap(), [82.0, 328.0, 208.0, 520.0, 378.0, 756.0]);
}
