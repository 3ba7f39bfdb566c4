use mlx::{self as mx, Array, Dtype, Frozen, Tree, array};

#[derive(Tree, Debug)]
struct State {
    w: Array,
    more: Vec<(Array, Option<Array>)>,
}

#[derive(Tree)]
struct Named<T> {
    value: T,
    #[tree(skip)]
    label: std::rc::Rc<str>,
}

// holds a tree that cannot be frozen: that is an error only where somebody freezes it
#[derive(Tree)]
struct Outer {
    inner: Named<Array>,
}

#[derive(Tree)]
struct Both<T> {
    first: T,
    second: T,
}

fn state() -> State {
    State { w: array!([1.0, 2.0]) * 3.0, more: vec![(array!(1), None), (array!(2), Some(array!(3.0)))] }
}

#[test]
fn trees_flatten_to_dotted_names_and_come_back() {
    let t = state();
    let flat = t.flatten();
    let names: Vec<&str> = flat.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["w", "more.0.0", "more.1.0", "more.1.1"]);
    let back = t.with_leaves(flat.iter().map(|(_, a)| a + 1)).unwrap();
    assert_eq!(back.more[1].1.as_ref().unwrap().item::<f32>().unwrap(), 4.0);
    assert!(t.with_leaves([array!(1)]).unwrap_err().to_string().contains("4 leaves"));
    assert!(t.with_leaves(vec![array!(1); 5]).is_err());
    let named = Named { value: vec![array!(1)], label: "x".into() };
    assert_eq!(&*named.map(|_, a| a + 1).label, "x");
    assert_eq!(named.flatten()[0].0, "value.0");
    let outer = Outer { inner: Named { value: array!(1), label: "y".into() } };
    assert_eq!(outer.flatten()[0].0, "inner.value");
    assert_eq!(&*outer.inner.label, "y");
    let both = Frozen::new(Both { first: array!(1), second: array!(2) }).unwrap().thaw();
    assert_eq!((&both.first + &both.second).item::<i32>().unwrap(), 3);
}

#[test]
fn frozen_trees_are_read_by_many_threads_at_once() {
    let frozen = Frozen::new(state()).unwrap();
    std::thread::scope(|s| {
        for n in 0..4 {
            let frozen = &frozen;
            s.spawn(move || {
                for _ in 0..200 {
                    let t = frozen.thaw();
                    let y = (&t.w * n + &t.more[0].0).sum(());
                    assert_eq!(y.item::<f32>().unwrap(), 9.0 * n as f32 + 2.0);
                }
            });
        }
    });
}

#[test]
fn frozen_arrays_outlive_the_thread_that_made_them() {
    let make = || Frozen::new(vec![mx::arange(0, 1000, 1, None).astype(Dtype::Float32) * 2.0]).unwrap();
    let frozen = std::thread::spawn(make).join().unwrap();
    assert_eq!(frozen.thaw()[0].sum(()).item::<f32>().unwrap(), 999000.0);
    std::thread::spawn(move || drop(frozen)).join().unwrap();
}
