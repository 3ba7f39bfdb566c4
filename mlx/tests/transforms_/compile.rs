use mlx::nn::{Linear, Param};
use mlx::{self as mx, Array, Dtype, Module, RandomState, array};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

fn counted<R>(f: impl Fn(&Array) -> R + 'static) -> (Rc<Cell<usize>>, impl Fn(&Array) -> R + 'static) {
    let n = Rc::new(Cell::new(0));
    let counter = n.clone();
    (n, move |x: &Array| {
        counter.set(counter.get() + 1);
        f(x)
    })
}

#[test]
fn a_trace_is_replayed_for_equal_shapes_and_dtypes() {
    let (n, f) = counted(|x: &Array| (x * 2.0 + 1.0, x.sum(())));
    let f = mx::compile(f);
    for i in 0..3 {
        let (y, s) = f.call(&array!([i as f32, 1.0]));
        assert_eq!(y.to_vec::<f32>().unwrap(), [2.0 * i as f32 + 1.0, 3.0]);
        assert_eq!(s.item::<f32>().unwrap(), i as f32 + 1.0);
    }
    assert_eq!(n.get(), 1);
    f.call(&array!([1.0]));
    f.call(&array!([1.0]).astype(Dtype::Float16));
    assert_eq!(n.get(), 3);
    drop(f);
    assert_eq!(Rc::strong_count(&n), 1);
}

#[test]
fn shapeless_functions_are_traced_once() {
    let (n, f) = counted(|x: &Array| (x * x).exp());
    let f = mx::compile_shapeless(f);
    for k in [1, 5, 3] {
        assert_eq!(f.call(&mx::zeros([k], Dtype::Float32)).to_vec::<f32>().unwrap(), vec![1.0; k as usize]);
    }
    assert_eq!(n.get(), 1);
}

#[test]
fn a_captured_array_is_frozen_into_the_trace() {
    let offset = Rc::new(std::cell::RefCell::new(array!(10.0)));
    let captured = offset.clone();
    let f = mx::compile(move |x: &Array| x + &*captured.borrow());
    assert_eq!(f.call(&array!(1.0)).item::<f32>().unwrap(), 11.0);
    *offset.borrow_mut() = array!(20.0);
    assert_eq!(f.call(&array!(1.0)).item::<f32>().unwrap(), 11.0);
}

#[test]
fn structures_of_arguments_have_traces_of_their_own() {
    let (n, f) = counted(|x: &Array| x.clone());
    let f = mx::compile(move |list: &Vec<Array>| list.iter().map(&f).collect::<Vec<_>>());
    assert_eq!(f.call(&vec![array!(1.0), array!(2.0)]).len(), 2);
    assert_eq!(f.call(&vec![array!(1.0)]).len(), 1);
    assert_eq!(f.call(&vec![array!(3.0), array!(4.0)])[1].item::<f32>().unwrap(), 4.0);
    assert_eq!(n.get(), 3);
}

#[derive(Module)]
struct Model {
    layer: Linear,
    count: Param,
}

#[test]
fn state_goes_in_and_out() {
    let traces = Rc::new(Cell::new(0));
    let n = traces.clone();
    let step = mx::compile_with_state(move |(model, _): &mut (Model, RandomState), x: &Array| {
        n.set(n.get() + 1);
        model.count.set(model.count.value() + 1);
        let w = model.layer.weight() + mx::random::uniform(0.0, 1.0, [1, 2], Dtype::Float32, None);
        model.layer.weight_mut().set(w);
        model.layer.forward(x)
    });
    let model = Model { layer: Linear::new(mx::zeros([1, 2], Dtype::Float32), None), count: array!(0).into() };
    let mut state = (model, RandomState);
    mx::random::seed(3);
    let mut by_hand = mx::zeros([1, 2], Dtype::Float32);
    let outputs: Vec<f32> = (0..3).map(|_| step.call(&mut state, &array!([[1.0, 2.0]])).item().unwrap()).collect();
    mx::random::seed(3);
    for y in outputs {
        by_hand = by_hand + mx::random::uniform(0.0, 1.0, [1, 2], Dtype::Float32, None);
        let expected = (&by_hand * array!([1.0, 2.0])).sum(()).item::<f32>().unwrap();
        assert!((y - expected).abs() < 1e-5, "{y} {expected}");
    }
    assert_eq!(traces.get(), 1);
    assert_eq!(state.0.count.item::<i32>().unwrap(), 3);
}

#[test]
fn a_state_that_grows_in_the_first_step_is_kept() {
    let step = mx::compile_with_state(|seen: &mut Vec<Array>, x: &Array| {
        if seen.is_empty() {
            seen.push(mx::zeros_like(x));
        }
        seen[0] = &seen[0] + x;
        seen[0].clone()
    });
    for _ in 0..2 {
        let mut state = vec![];
        for i in 1..4 {
            assert_eq!(step.call(&mut state, &array!(2.0)).item::<f32>().unwrap(), 2.0 * i as f32);
        }
        assert_eq!(state[0].item::<f32>().unwrap(), 6.0);
    }
}

#[test]
fn a_panic_while_tracing_leaves_the_state_as_it_was() {
    let step = mx::compile_with_state(|n: &mut Array, x: &Array| {
        *n = &*n + 1;
        assert!(x.size() < 3, "too many");
        x.clone()
    });
    let mut n = array!(5);
    let failed = catch_unwind(AssertUnwindSafe(|| step.call(&mut n, &array!([1.0, 2.0, 3.0]))));
    assert!(failed.unwrap_err().downcast_ref::<&str>().is_some_and(|m| m.contains("too many")));
    assert_eq!(n.item::<i32>().unwrap(), 5);
    step.call(&mut n, &array!([1.0]));
    assert_eq!(n.item::<i32>().unwrap(), 6);
    let inside = mx::compile(|x: &Array| {
        Array::from(x.item::<f32>().expect_err("a tracer has no value").to_string().len() as i32)
    });
    assert!(inside.call(&array!(1.0)).item::<i32>().unwrap() > 0);
}

#[test]
fn compiled_functions_can_be_differentiated() {
    let f = mx::compile(|x: &Array| x.square().sum(()));
    let g = mx::grad(|x: &Array| f.call(x));
    assert_eq!(g(&array!([1.0, 2.0])).to_vec::<f32>().unwrap(), [2.0, 4.0]);
    let step = mx::compile(|x: &Array| mx::grad(|x: &Array| (x * x * x).sum(()))(x));
    assert_eq!(step.call(&array!([1.0, 2.0])).to_vec::<f32>().unwrap(), [3.0, 12.0]);
}

#[test]
fn functions_made_and_dropped_in_turn_never_see_each_others_traces() {
    for i in 0..50 {
        let f = mx::compile(move |x: &Array| x * i);
        assert_eq!(f.call(&array!(2)).item::<i32>().unwrap(), 2 * i);
    }
}

#[test]
fn a_cpu_build_compiles_without_the_systems_compiler_and_files() {
    // MLX's fusion for the CPU runs g++ in the temporary folder and loads what it finds there
    if std::env::var_os("MLX_TEST_CHILD").is_some() {
        let f = mx::compile(|x: &Array| (x * 2.0 + 1.0).exp().log() - 1.0);
        assert_eq!(f.call(&array!([1.0, 2.0])).shape(), [2]);
        assert!((f.call(&array!([1.0, 2.0])).sum(()).item::<f32>().unwrap() - 6.0).abs() < 1e-4);
        return;
    }
    if mx::cuda_is_available() || mx::metal_is_available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["compile::a_cpu_build_compiles_without_the_systems_compiler_and_files", "--exact"])
        .env("MLX_TEST_CHILD", "1")
        .env("TMPDIR", dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
