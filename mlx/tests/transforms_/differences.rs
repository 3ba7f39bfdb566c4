//! Gradients of every differentiable op against central differences, in float64 where MLX has it.

use mlx::{self as mx, Array, Conv, ConvTranspose, Device, Dtype, PadMode, fast, step};

/// Distinct numbers in a range.
fn numbers(shape: &[i32], low: f64, high: f64) -> Array {
    let n: i32 = shape.iter().product();
    let v: Vec<f64> = (0..n).map(|i| low + (high - low) * (((i * 61 + 17) % 97) as f64 + 0.5) / 97.0).collect();
    Array::from_slice(&v, shape)
}

/// Checks d(sum(c * f)) / dx for each argument, with weights c that tell outputs apart.
fn check(name: &str, args: &[Array], eps: f64, tolerance: f64, f: impl Fn(&[Array]) -> Array) {
    let weigh = |y: Array| {
        let c = numbers(y.shape(), 0.5, 1.5).astype(y.dtype());
        (y * c).sum(())
    };
    let loss = |a: &[Array]| weigh(f(a));
    let all: Vec<i32> = (0..args.len() as i32).collect();
    let (_, grads) = mx::value_and_grad_argnums(|a| vec![loss(a)], args, &all);
    for (n, (a, g)) in args.iter().zip(&grads).enumerate() {
        assert_eq!(a.shape(), g.shape(), "{name}");
        let (values, found) = (a.to_vec::<f64>().unwrap(), g.to_vec::<f64>().unwrap());
        for i in 0..values.len() {
            let moved = |by: f64| {
                let mut v = values.clone();
                v[i] += by;
                let mut args = args.to_vec();
                args[n] = Array::from_slice(&v, a.shape()).astype(a.dtype());
                loss(&args).astype(Dtype::Float64).item::<f64>().unwrap()
            };
            let expected = (moved(eps) - moved(-eps)) / (2.0 * eps);
            let close = (found[i] - expected).abs() <= tolerance * (1.0 + expected.abs());
            assert!(close, "{name}: argument {n}, element {i}: {} by MLX, {expected} by differences", found[i]);
        }
    }
}

/// In float64; some of MLX's kernels compute it through float32, hence the step.
fn exact(name: &str, args: &[Array], f: impl Fn(&[Array]) -> Array) {
    mx::with_device(Device::Cpu, || check(name, args, 3e-3, 1e-3, f));
}

/// In float32, for ops whose kernels have no float64.
fn single(name: &str, args: &[Array], f: impl Fn(&[Array]) -> Array) {
    mx::with_device(Device::Cpu, || {
        let args: Vec<Array> = args.iter().map(|a| a.astype(Dtype::Float32)).collect();
        check(name, &args, 1e-2, 2e-2, f);
    });
}

#[test]
fn elementwise_ops() {
    let (x, p, u) = (numbers(&[2, 3], -2.0, 2.0), numbers(&[2, 3], 0.3, 2.0), numbers(&[2, 3], -0.9, 0.9));
    type Unary = fn(&Array) -> Array;
    let everywhere: &[(&str, Unary)] = &[
        ("abs", Array::abs),
        ("arctan", Array::arctan),
        ("arcsinh", Array::arcsinh),
        ("cos", Array::cos),
        ("cosh", Array::cosh),
        ("exp", Array::exp),
        ("negative", |x| -x),
        ("sigmoid", Array::sigmoid),
        ("sin", Array::sin),
        ("sinh", Array::sinh),
        ("square", Array::square),
        ("tanh", Array::tanh),
        ("expm1", Array::expm1),
    ];
    let positive: &[(&str, Unary)] = &[
        ("log", Array::log),
        ("log2", Array::log2),
        ("log10", Array::log10),
        ("log1p", Array::log1p),
        ("sqrt", Array::sqrt),
        ("rsqrt", Array::rsqrt),
        ("reciprocal", Array::reciprocal),
    ];
    let unit: &[(&str, Unary)] = &[("arcsin", Array::arcsin), ("arccos", Array::arccos), ("arctanh", Array::arctanh)];
    let approximate: &[(&str, Unary)] = &[("erf", Array::erf), ("erfinv", Array::erfinv), ("tan", Array::tan)];
    for (list, a) in [(everywhere, &x), (positive, &p), (unit, &u)] {
        list.iter().for_each(|(name, f)| exact(name, std::slice::from_ref(a), |a| f(&a[0])));
    }
    approximate.iter().for_each(|(name, f)| single(name, std::slice::from_ref(&u), |a| f(&a[0])));
    exact("arccosh", &[numbers(&[3], 1.5, 3.0)], |a| a[0].arccosh());

    let (y, v) = (numbers(&[3, 2], -1.5, 2.5).t(), numbers(&[3], 0.5, 2.0));
    exact("add", &[x.clone(), v.clone()], |a| &a[0] + &a[1]);
    exact("subtract", &[x.clone(), v.clone()], |a| &a[0] - &a[1]);
    exact("multiply", &[x.clone(), v.clone()], |a| &a[0] * &a[1]);
    exact("divide", &[x.clone(), v.clone()], |a| &a[0] / &a[1]);
    exact("power", &[p.clone(), x.clone()], |a| a[0].pow(&a[1]));
    exact("maximum", &[x.clone(), y.clone()], |a| a[0].maximum(&a[1]));
    exact("minimum", &[x.clone(), y.clone()], |a| a[0].minimum(&a[1]));
    exact("logaddexp", &[x.clone(), y.clone()], |a| a[0].logaddexp(&a[1]));
    exact("arctan2", &[x.clone(), v.clone()], |a| a[0].arctan2(&a[1]));
    exact("where", &[x.clone(), y.clone()], |a| mx::where_(a[0].gt(0), &a[0] * 2, &a[1]));
    exact("clip", std::slice::from_ref(&x), |a| mx::clip(&a[0], Some(-0.513), Some(0.777)));
    exact("remainder", std::slice::from_ref(&x), |a| mx::remainder(&a[0] * 2 + 9, 5.5));
}

#[test]
fn reductions_scans_and_order() {
    let (x, p) = (numbers(&[3, 4], -2.0, 2.0), numbers(&[3, 4], 0.3, 2.0));
    type Unary = fn(&Array) -> Array;
    let list: &[(&str, Unary)] = &[
        ("sum", |x| x.sum(0)),
        ("mean", |x| x.mean(-1)),
        ("var", |x| mx::var_with(x, -1, false, 1)),
        ("max", |x| x.max(-1)),
        ("min", |x| x.min(0)),
        ("logsumexp", |x| x.logsumexp(-1)),
        ("softmax", |x| x.softmax(-1)),
        ("cumsum", |x| x.cumsum(1)),
        ("sort", |x| mx::sort(x, -1)),
    ];
    list.iter().for_each(|(name, f)| exact(name, std::slice::from_ref(&x), |a| f(&a[0])));
    exact("prod", std::slice::from_ref(&p), |a| a[0].prod(-1));
    exact("std", std::slice::from_ref(&p), |a| a[0].std(-1));
    exact("cumprod", std::slice::from_ref(&p), |a| a[0].cumprod(1));
}

#[test]
fn shapes_and_indices() {
    let x = numbers(&[3, 4], -2.0, 2.0);
    let i = mx::array!([2, 0, 0]);
    type Unary = fn(&Array) -> Array;
    let list: &[(&str, Unary)] = &[
        ("reshape", |x| x.reshape([2, 6])),
        ("transpose", |x| x.t()),
        ("expand_dims", |x| x.expand_dims(1)),
        ("flatten", |x| x.flatten(0, -1)),
        ("split", |x| &x.split(2, 1)[1] * 3.0),
        ("slice", |x| x.i((1.., step(.., -2)))),
        ("pad", |x| mx::pad(x, &[(1, 0), (0, 2)], 0, PadMode::Constant)),
        ("roll", |x| mx::roll(x, 1, 1)),
        ("repeat", |x| mx::repeat(x, 2, 0)),
        ("tile", |x| mx::tile(x, [2, 1])),
        ("flip", |x| mx::flip(x, 1)),
        ("broadcast", |x| mx::broadcast_to(&x.expand_dims(0), [2, 3, 4])),
        ("diagonal", |x| x.diagonal(0, 0, 1)),
        ("tril", |x| mx::tril(x, 0)),
        ("moveaxis", |x| x.moveaxis(0, 1)),
    ];
    list.iter().for_each(|(name, f)| exact(name, std::slice::from_ref(&x), |a| f(&a[0])));
    exact("concatenate", &[x.clone(), &x * 2], |a| mx::concatenate(a, 1));
    exact("stack", &[x.clone(), &x * 2], |a| mx::stack(a, 1));
    exact("take", std::slice::from_ref(&x), |a| a[0].take(&i, 0));
    exact("take_along_axis", std::slice::from_ref(&x), |a| mx::take_along_axis(&a[0], &i.reshape([3, 1]), 1));
    exact("set", &[x.clone(), numbers(&[4], -1.0, 1.0)], |a| {
        let mut z = &a[0] * 2;
        z.set(1, &a[1]);
        z.square()
    });
    exact("at add", &[x.clone(), numbers(&[3, 4], -1.0, 1.0)], |a| a[0].at(&i).add(&a[1]).square());
}

#[test]
fn products_and_fused_ops() {
    let (x, w) = (numbers(&[3, 4], -1.0, 1.0), numbers(&[4, 2], -1.0, 1.0));
    single("matmul", &[x.clone(), w.clone()], |a| a[0].matmul(&a[1]));
    single("addmm", &[numbers(&[2], -1.0, 1.0), x.clone(), w.clone()], |a| mx::addmm(&a[0], &a[1], &a[2], 0.5, 2.0));
    single("einsum", &[x.clone(), numbers(&[3, 2], -1.0, 1.0)], |a| mx::einsum("ij,ik->jk", &[&a[0], &a[1]]));
    single("outer", &[numbers(&[3], -1.0, 1.0), numbers(&[2], -1.0, 1.0)], |a| mx::outer(&a[0], &a[1]));
    let experts = [numbers(&[2, 1, 4], -1.0, 1.0), numbers(&[3, 4, 2], -1.0, 1.0)];
    let chosen = mx::array!([2u32, 0u32]);
    single("gather_mm", &experts, |a| mx::gather_mm(&a[0], &a[1], None, Some(&chosen), false));
    let c1 = Conv { padding: [1], stride: [2], ..Conv::default() };
    single("conv1d", &[numbers(&[1, 5, 2], -1.0, 1.0), numbers(&[3, 3, 2], -1.0, 1.0)], |a| {
        mx::conv1d(&a[0], &a[1], c1)
    });
    let c2 = Conv { padding: [1, 0], dilation: [1, 2], ..Conv::default() };
    let (image, filter) = (numbers(&[1, 3, 4, 2], -1.0, 1.0), numbers(&[2, 2, 2, 2], -1.0, 1.0));
    single("conv2d", &[image, filter], |a| mx::conv2d(&a[0], &a[1], c2));
    let t = ConvTranspose { stride: [2], ..ConvTranspose::default() };
    let (seq, filter) = (numbers(&[1, 3, 2], -1.0, 1.0), numbers(&[2, 2, 2], -1.0, 1.0));
    single("conv_transpose1d", &[seq, filter], |a| mx::conv_transpose1d(&a[0], &a[1], t));

    let (v, b) = (numbers(&[4], 0.5, 1.5), numbers(&[4], -1.0, 1.0));
    single("rms_norm", &[x.clone(), v.clone()], |a| fast::rms_norm(&a[0], Some(&a[1]), 1e-5));
    single("layer_norm", &[x.clone(), v, b], |a| fast::layer_norm(&a[0], Some(&a[1]), Some(&a[2]), 1e-5));
    single("rope", &[numbers(&[1, 2, 3, 4], -1.0, 1.0)], |a| {
        fast::rope(&a[0], fast::Rope { dims: 4, ..fast::Rope::default() }, 2)
    });
    let qkv: Vec<Array> = (0..3).map(|i| numbers(&[1, 1, 3, 4], -1.0, 1.0 + 0.1 * f64::from(i))).collect();
    single("sdpa", &qkv, |a| {
        let o = fast::Sdpa { scale: 0.5, mask: Some(&fast::Mask::Causal), ..fast::Sdpa::default() };
        fast::scaled_dot_product_attention(&a[0], &a[1], &a[2], o)
    });
    single("cross_entropy", std::slice::from_ref(&x), |a| fast::cross_entropy(&a[0], &mx::array!([1, 0, 3])));
    single("fft", &[numbers(&[4], -1.0, 1.0)], |a| {
        mx::fft::fft(&a[0], None, -1, mx::fft::Norm::default()).abs().square()
    });
}
