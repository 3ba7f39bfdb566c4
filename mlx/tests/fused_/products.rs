use crate::tools::{card, error, fresh_seed, normal, poison};
use mlx::fast::{self, After, Columns, Matrix, Product};
use mlx::{self as mx, Array, Device, Dtype, Quant};

const BF: Dtype = Dtype::Bfloat16;

/// A weight [N, K], packed or not, with its bias.
struct Weight {
    arrays: Vec<Array>,
    quant: Option<Quant>,
    bias: Option<Array>,
}

impl Weight {
    fn new([n, k]: [i32; 2], quant: Option<Quant>, bias: bool) -> Weight {
        let dense = normal(&[n, k], BF, 0.1);
        let arrays = match quant {
            None => vec![dense],
            Some(q) => {
                let (words, scales, biases) = mx::quantize(&dense, q);
                [words, scales].into_iter().chain(biases).collect()
            }
        };
        mx::eval(&arrays).unwrap();
        Weight { arrays, quant, bias: bias.then(|| normal(&[n], BF, 1.0)) }
    }
    fn matrix(&self) -> Matrix<'_> {
        let m = match self.quant {
            None => Matrix::dense(&self.arrays[0]),
            Some(q) => Matrix::quantized(&self.arrays[0], &self.arrays[1], self.arrays.get(2), q),
        };
        m.with_bias(self.bias.as_ref())
    }
    /// The same numbers in one buffer.
    fn share(all: Vec<Weight>) -> Vec<Weight> {
        let arrays: Vec<&Array> = all.iter().flat_map(|w| w.arrays.iter().chain(&w.bias)).collect();
        let Some(mut shared) = fast::share_buffer(&arrays).unwrap().map(Vec::into_iter) else { return all };
        let mut next = || shared.next().unwrap();
        all.iter()
            .map(|w| Weight {
                arrays: w.arrays.iter().map(|_| next()).collect(),
                quant: w.quant,
                bias: w.bias.as_ref().map(|_| next()),
            })
            .collect()
    }
}

/// Each product against the plain form in float32 on the CPU.
fn check(what: &str, products: &[Product]) {
    let (b, l) = (products[0].x.x.dim(0), products[0].x.x.dim(1));
    let total: i32 = products.iter().map(|p| p.weight.outputs()).sum();
    poison((b * l * total * 2) as usize);
    let got = fast::products_fused(products).unwrap_or_else(|| panic!("{what}: no kernel"));
    mx::eval(got.iter().map(|g| &g.0)).unwrap();
    for (i, (p, (y, at))) in products.iter().zip(&got).enumerate() {
        let wide = |a: &Array| a.astype(Dtype::Float32);
        let want = mx::with_device(Device::Cpu, || {
            let w = &p.weight;
            let dense = match w.quant {
                None => wide(w.weight),
                Some(q) => wide(&mx::dequantize(w.weight, w.scales.unwrap(), w.biases, q, Some(BF))),
            };
            let (x, bias) = (wide(p.x.x), w.bias.map(wide));
            let toward = p.toward.map(|(before, by)| (wide(before), wide(by)));
            let y = fast::product_plain(&Product {
                x: Columns { x: &x, ..p.x },
                toward: toward.as_ref().map(|(a, b)| (a, b)),
                weight: Matrix::dense(&dense).with_bias(bias.as_ref()),
                after: p.after,
            });
            y.eval().unwrap();
            y
        });
        let e = error(&y.slice_axis(-1, *at..*at + p.weight.outputs()), &want);
        // the dense form of packed weights is rounded to 16 bits, that of the kernel is not
        let allowed = if p.weight.quant.is_some() { 2e-2 } else { 8e-3 };
        assert!(e < allowed, "{what}, product {i}: {e:e}");
    }
}

#[test]
fn products_of_one_launch_equal_each_alone() {
    if !card("products_of_one_launch_equal_each_alone") {
        return;
    }
    fresh_seed();
    let afters = [After::Same, After::Sigmoid, After::Tanh, After::SquaredRelu];
    let four = Quant { group_size: 64, bits: 4, ..Default::default() };
    for (b, l, k, quant) in [
        (1, 1, 2048, None),
        (1, 1, 96, None),
        (3, 1, 256, None),
        (2, 4, 4096, None),
        (8, 1, 1056, None),
        (1, 1, 512, Some(four)),
        (20, 1, 256, Some(four)),
    ] {
        // narrow, wide and of a width that no tile divides
        let widths = [64, 96, 17, 2048, 1, 40, 24];
        let weights: Vec<Weight> =
            widths.iter().enumerate().map(|(i, &n)| Weight::new([n, k], quant, i % 3 == 1)).collect();
        let x = normal(&[b, l, k], BF, 1.0);
        let (before, by) = (normal(&[b, 1, k], BF, 1.0), normal(&[1, 1, k], BF, 1.0));
        let products: Vec<Product> = weights
            .iter()
            .enumerate()
            .map(|(i, w)| Product {
                x: Columns::new(&x, 0, 0),
                toward: (l == 1 && i % 2 == 0).then_some((&before, &by)),
                weight: w.matrix(),
                after: afters[i % 4],
            })
            .collect();
        let what = format!("b {b} l {l} k {k} {}", quant.is_some());
        check(&what, &products);
        check(&format!("{what}, one"), &products[3..4]);
    }
}

/// Inputs of several widths side by side in one array, weights in one buffer, forms that differ, more than one launch.
#[test]
fn products_read_columns_and_shared_buffers() {
    if !card("products_read_columns_and_shared_buffers") {
        return;
    }
    fresh_seed();
    let four = Quant { group_size: 32, bits: 4, ..Default::default() };
    for (b, l) in [(1, 1), (4, 2)] {
        let x = normal(&[b, l, 64 + 96 + 256 + 8], BF, 1.0);
        let kinds =
            [([80, 64], None), ([33, 96], None), ([48, 256], None), ([64, 64], Some(four)), ([16, 256], Some(four))];
        for shared in [false, true] {
            let weights: Vec<Weight> = match shared {
                false => kinds.iter().map(|&(shape, q)| Weight::new(shape, q, shape[0] % 16 == 0)).collect(),
                true => {
                    Weight::share(kinds.iter().map(|&(s, q)| Weight::new([s[0] / 16 * 16, s[1]], q, true)).collect())
                }
            };
            let products: Vec<Product> = weights
                .iter()
                .zip([0, 64, 168, 8, 160])
                .map(|(w, at)| Product {
                    x: Columns::new(&x, at, 0),
                    toward: None,
                    weight: w.matrix(),
                    after: if at == 64 { After::Sigmoid } else { After::Same },
                })
                .collect();
            check(&format!("columns, b {b} l {l}, shared {shared}"), &products);
            // nine of one form: two launches
            let many: Vec<Product> = (0..9).map(|i| products[i % 3]).collect();
            check("nine", &many);
        }
    }
}

#[test]
fn products_refuse_what_no_kernel_takes() {
    if !card("products_refuse_what_no_kernel_takes") {
        return;
    }
    let x = normal(&[1, 1, 64], BF, 1.0);
    let w = Weight::new([32, 64], None, false);
    let one = |x: &Array, at: i32, toward: Option<(&Array, &Array)>| {
        fast::products_fused(&[Product { x: Columns::new(x, at, 0), toward, weight: w.matrix(), after: After::Same }])
    };
    assert!(one(&x, 0, None).is_some());
    assert!(one(&x, 8, None).is_none(), "columns beyond the row");
    assert!(one(&normal(&[1, 1, 72], BF, 1.0), 4, None).is_none(), "columns within 16 bytes");
    assert!(one(&normal(&[3, 3, 64], BF, 1.0), 0, None).is_none(), "nine rows");
    assert!(one(&normal(&[1, 1, 64], Dtype::Float32, 1.0), 0, None).is_none(), "another type");
    let (before, by) = (normal(&[1, 1, 64], BF, 1.0), normal(&[63], BF, 1.0));
    assert!(one(&x, 0, Some((&before, &by))).is_none(), "too few shares");
    assert!(one(&normal(&[1, 2, 64], BF, 1.0), 0, Some((&before, &before))).is_none(), "two tokens");
}
