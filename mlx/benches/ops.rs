//! What one op costs, beside plain C and (with `ops.py`) beside Python: `cargo bench -p mlx --bench ops`.
//!
//! Each row is the best of many rounds, in nanoseconds for one op unless it says otherwise. `--alloc ROW N` runs a row
//! N times and ends, to count allocations from outside.

use mlx::{self as mx, Array, Device, Dtype, array};
use mlx_sys as sys;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Nanoseconds for one of the `ops` that a call of `f` does.
fn best(ops: usize, mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let end = Instant::now() + Duration::from_millis(400);
    f();
    while Instant::now() < end {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_nanos() as f64 / ops as f64);
    }
    best
}

/// The same with the C API alone: one stream handle, nothing checked.
struct C {
    stream: sys::mlx_stream,
}

impl C {
    fn new() -> Self {
        // SAFETY: plain calls
        C { stream: unsafe { sys::mlx_default_cpu_stream_new() } }
    }
    fn op(&self, f: impl FnOnce(*mut sys::mlx_array, sys::mlx_stream) -> i32) -> sys::mlx_array {
        let mut res = sys::mlx_array { ctx: std::ptr::null_mut() };
        assert_eq!(f(&mut res, self.stream), 0);
        res
    }
}

fn free(a: sys::mlx_array) {
    // SAFETY: owned handles of this file
    unsafe { sys::mlx_array_free(a) };
}

const N: usize = 1000;

type Run = Box<dyn FnMut()>;

/// Name, ops in a call, the Rust form, the C form.
fn rows() -> Vec<(&'static str, usize, Run, Option<Run>)> {
    let x = mx::zeros([16, 16], Dtype::Float32);
    let one = array!(1.0);
    let w = mx::ones([16, 16], Dtype::Float32);
    let ids = array!([3, 1, 2]);
    mx::eval([&x, &one, &w, &ids]).expect("constants");
    let each = |f: fn(&Array) -> Array, x: &Array| -> Run {
        let x = x.clone();
        Box::new(move || {
            for _ in 0..N {
                black_box(f(&x));
            }
        })
    };
    let c_each = |f: Box<dyn Fn(&C, sys::mlx_array) -> sys::mlx_array>, x: &Array| -> Option<Run> {
        let (x, c) = (x.clone(), C::new());
        Some(Box::new(move || {
            for _ in 0..N {
                free(f(&c, x.as_raw()));
            }
        }))
    };
    // SAFETY of all C forms: valid handles, pointers and lengths of live arrays, steps are 1
    let mut rows: Vec<(&'static str, usize, Run, Option<Run>)> = Vec::new();
    let (a, b) = (x.clone(), one.clone());
    let (ca, cb, c) = (x.clone(), one.clone(), C::new());
    rows.push((
        "add chain",
        N,
        Box::new(move || {
            let mut y = &a + &b;
            for _ in 1..N {
                y = &y + &b;
            }
            black_box(y);
        }),
        Some(Box::new(move || {
            let mut y = c.op(|r, s| unsafe { sys::mlx_add(r, ca.as_raw(), cb.as_raw(), s) });
            for _ in 1..N {
                let z = c.op(|r, s| unsafe { sys::mlx_add(r, y, cb.as_raw(), s) });
                free(std::mem::replace(&mut y, z));
            }
            free(y);
        })),
    ));
    rows.push((
        "add a scalar",
        N,
        each(|x| x + 1.5, &x),
        c_each(
            Box::new(|c, x| {
                let v = unsafe { sys::mlx_array_new_float32(1.5) };
                let y = c.op(|r, s| unsafe { sys::mlx_add(r, x, v, s) });
                free(v);
                y
            }),
            &x,
        ),
    ));
    rows.push((
        "reshape",
        N,
        each(|x| x.reshape([4, 64]), &x),
        c_each(Box::new(|c, x| c.op(|r, s| unsafe { sys::mlx_reshape(r, x, [4, 64].as_ptr(), 2, s) })), &x),
    ));
    rows.push((
        "slice x[:, 1:3]",
        N,
        each(|x| x.i((.., 1..3)), &x),
        c_each(
            Box::new(|c, x| {
                c.op(|r, s| unsafe {
                    sys::mlx_slice(r, x, [0, 1].as_ptr(), 2, [16, 3].as_ptr(), 2, [1, 1].as_ptr(), 2, s)
                })
            }),
            &x,
        ),
    ));
    rows.push((
        "row x[3]",
        N,
        each(|x| x.i(3), &x),
        c_each(
            Box::new(|c, x| {
                let y = c.op(|r, s| unsafe {
                    sys::mlx_slice(r, x, [3, 0].as_ptr(), 2, [4, 16].as_ptr(), 2, [1, 1].as_ptr(), 2, s)
                });
                let z = c.op(|r, s| unsafe { sys::mlx_squeeze_axis(r, y, 0, s) });
                free(y);
                z
            }),
            &x,
        ),
    ));
    rows.push((
        "rows x[ids], checked",
        N,
        {
            let (x, ids) = (x.clone(), ids.clone());
            Box::new(move || {
                for _ in 0..N {
                    black_box(x.i(&ids));
                }
            })
        },
        {
            let ids = ids.clone();
            c_each(Box::new(move |c, x| c.op(|r, s| unsafe { sys::mlx_take_axis(r, x, ids.as_raw(), 0, s) })), &x)
        },
    ));
    rows.push((
        "sum(-1)",
        N,
        each(|x| x.sum(-1), &x),
        c_each(Box::new(|c, x| c.op(|r, s| unsafe { sys::mlx_sum_axis(r, x, -1, false, s) })), &x),
    ));
    rows.push((
        "matmul",
        N,
        {
            let (x, w) = (x.clone(), w.clone());
            Box::new(move || {
                for _ in 0..N {
                    black_box(x.matmul(&w));
                }
            })
        },
        {
            let w = w.clone();
            c_each(Box::new(move |c, x| c.op(|r, s| unsafe { sys::mlx_matmul(r, x, w.as_raw(), s) })), &x)
        },
    ));
    rows.push((
        "assign x[3] = v",
        N,
        {
            let (x, v) = (x.clone(), mx::ones([16], Dtype::Float32));
            v.eval().expect("a constant");
            Box::new(move || {
                let mut y = x.clone();
                for _ in 0..N {
                    y.set(3, &v);
                }
            })
        },
        None,
    ));
    rows.push((
        "add chain, evaluated",
        N,
        {
            let (x, one) = (x.clone(), one.clone());
            Box::new(move || {
                let mut y = &x + &one;
                for _ in 1..N {
                    y = &y + &one;
                }
                y.eval().expect("adds");
            })
        },
        None,
    ));
    rows.push((
        "eval of 100 outputs (µs)",
        1000,
        {
            let x = x.clone();
            Box::new(move || {
                let many: Vec<Array> = (0..100).map(|i| &x + i).collect();
                mx::eval(&many).expect("adds");
            })
        },
        None,
    ));
    let (w1, w2) = (w.clone(), w.clone() * 0.1);
    let loss = move |p: &(Array, Array)| (mx::tanh(x.matmul(&p.0)).matmul(&p.1)).square().mean(());
    let grad = mx::value_and_grad(loss);
    let p = (w1, w2);
    rows.push((
        "value and gradient of an MLP (µs)",
        1000,
        Box::new(move || {
            let (l, g) = grad(&p);
            mx::eval([&l, &g.0, &g.1]).expect("a gradient");
        }),
        None,
    ));
    let chain = |x: &Array| {
        let mut y = x.clone();
        for _ in 0..5 {
            y = (&y * 1.5 + 0.5).sigmoid();
        }
        y
    };
    let (f, fused) = (mx::compile(chain), mx::compile(chain));
    let v = mx::ones([1024], Dtype::Float32);
    let w = v.clone();
    rows.push((
        "compiled chain of 15 (µs)",
        1000,
        Box::new(move || {
            f.call(&v).eval().expect("a chain");
        }),
        None,
    ));
    // as Python does: by the system's C++ compiler, which a CPU build leaves alone unless told
    let mode = std::sync::Once::new();
    rows.push((
        "compiled chain of 15, fused (µs)",
        1000,
        Box::new(move || {
            mode.call_once(|| mx::set_compile_mode(mx::CompileMode::Enabled));
            fused.call(&w).eval().expect("a chain");
        }),
        None,
    ));
    rows
}

fn main() {
    mx::set_default_device(Device::Cpu).expect("there is a CPU");
    let args: Vec<String> = std::env::args().collect();
    if let Some(i) = args.iter().position(|a| a == "--alloc") {
        let (name, n): (&str, usize) = (&args[i + 1], args[i + 2].parse().expect("a number"));
        let plain = args.iter().any(|a| a == "--c");
        for (row, _, rust, c) in rows() {
            if row == name
                && let Some(mut f) = if plain { c } else { Some(rust) }
            {
                (0..n).for_each(|_| f());
            }
        }
        return;
    }
    println!("| row | Rust | C | Rust / C |\n|---|---:|---:|---:|");
    for (name, ops, rust, c) in rows() {
        let rust = best(ops, rust);
        match c.map(|c| best(ops, c)) {
            Some(c) => println!("| {name} | {rust:.0} | {c:.0} | {:.2} |", rust / c),
            None => println!("| {name} | {rust:.1} | | |"),
        }
    }
}
