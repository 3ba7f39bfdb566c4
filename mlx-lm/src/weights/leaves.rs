//! What a mixer sees of a checkpoint: leaves by bare name, checked for shape, in whatever form they are stored.

use super::{Jang, RandomWeights, Tensors};
use crate::config::{QuantConfig, QuantMode};
use crate::{Error, Result};
use mlx::nn::{Embedding, Leaf, Linear, Module, Param, Path, Rotation, SwitchLinear};
use mlx::{Array, Dtype, Quant};
use std::cell::RefCell;
use std::rc::Rc;

/// A prefix of a checkpoint. What is asked for is taken; what nobody asked for is an error at the end of loading.
#[derive(Clone)]
pub struct Leaves {
    shared: Rc<Shared>,
    prefix: String,
}

struct Shared {
    tensors: RefCell<Tensors>,
    quant: Option<QuantConfig>,
    /// How streams of bytes are packed, where they are.
    jang: Option<Jang>,
    /// Answers in place of a checkpoint.
    random: Option<RandomWeights>,
}

impl Leaves {
    /// The root of a checkpoint, with what its config says of quantisation.
    pub fn new(tensors: Tensors, quant: Option<QuantConfig>) -> Self {
        Self::with_jang(tensors, quant, None)
    }

    /// As [`new`](Self::new), of a checkpoint that has a `jang_config.json`.
    pub fn with_jang(tensors: Tensors, quant: Option<QuantConfig>, jang: Option<Jang>) -> Self {
        let shared = Shared { tensors: RefCell::new(tensors), quant, jang, random: None };
        Leaves { shared: Rc::new(shared), prefix: String::new() }
    }

    /// No checkpoint: every leaf that is asked for is there, in the shape that is asked for, with random values.
    pub fn random(random: RandomWeights, quant: Option<QuantConfig>) -> Self {
        let shared = Shared { tensors: RefCell::default(), quant, jang: None, random: Some(random) };
        Leaves { shared: Rc::new(shared), prefix: String::new() }
    }

    /// The leaves below `name` (dotted names are fine; an empty one changes nothing).
    pub fn at(&self, name: &str) -> Leaves {
        Leaves { shared: self.shared.clone(), prefix: self.path(name) }
    }

    /// The full path of a leaf.
    pub fn path(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", n) => n.to_string(),
            (p, "") => p.to_string(),
            (p, n) => format!("{p}.{n}"),
        }
    }

    /// Whether the checkpoint has this leaf, under this exact name.
    pub fn has(&self, name: &str) -> bool {
        self.shared.tensors.borrow().has(&self.path(name))
    }

    /// Bare names of what is left below this prefix, sorted.
    pub fn names(&self) -> Vec<String> {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        self.shared.tensors.borrow().names().filter_map(|n| n.strip_prefix(&prefix).map(String::from)).collect()
    }

    /// The shape of a leaf, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<i32>> {
        self.shared.tensors.borrow().shape(&self.path(name)).map(<[i32]>::to_vec)
    }

    /// Takes an array of any shape.
    pub fn any(&self, name: &str) -> Result<Array> {
        self.shared.tensors.borrow_mut().take(&self.path(name))
    }

    /// Takes an array of this shape; -1 stands for any size.
    pub fn array(&self, name: &str, shape: &[i32]) -> Result<Array> {
        if let Some(random) = &self.shared.random {
            return random.array(&self.path(name), shape);
        }
        let a = self.any(name)?;
        let fits = a.ndim() == shape.len() && a.shape().iter().zip(shape).all(|(a, b)| a == b || *b == -1);
        if fits { Ok(a) } else { Err(self.wrong_shape(name, a.shape(), shape)) }
    }

    fn wrong_shape(&self, name: &str, is: &[i32], should: &[i32]) -> Error {
        Error::tensor(self.path(name), format!("shape {is:?}, expected {should:?}"))
    }

    /// Takes a parameter of this shape under its own name.
    pub fn param(&self, name: &str, shape: &[i32]) -> Result<Leaf<Param>> {
        Ok(Leaf::new(name, Param::new(self.array(name, shape)?)))
    }

    /// Takes a parameter if it is there.
    pub fn opt_param(&self, name: &str, shape: &[i32]) -> Result<Option<Leaf<Param>>> {
        if self.has(name) { self.param(name, shape).map(Some) } else { Ok(None) }
    }

    /// A linear layer [out, in], dense or quantised as stored.
    pub fn linear(&self, name: &str, input: i32, output: i32, bias: bool) -> Result<Leaf<Linear>> {
        let l = self.at(name);
        let bias = if bias { Some(l.array("bias", &[output])?) } else { None };
        if let Some([codes, book]) = l.coded(&[], output, input)? {
            let mut linear = Linear::codebook(codes, book, bias);
            l.rotation(input)?.into_iter().for_each(|r| linear.set_rotation(r));
            l.global_scale(&[], output)?.into_iter().for_each(|s| linear.set_global_scale(s));
            return Ok(Leaf::new(name, linear));
        }
        let linear = match l.packed(&[output], input)? {
            Some(p) => {
                let mut linear = Linear::quantized(p.weight, p.scales, p.biases, p.quant, bias);
                l.rotation(input)?.into_iter().for_each(|r| linear.set_rotation(r));
                l.global_scale(&[], output)?.into_iter().for_each(|s| linear.set_global_scale(s));
                if l.has("order") {
                    linear.set_order(l.array("order", &[input])?);
                }
                linear
            }
            None => Linear::new(l.array("weight", &[output, input])?, bias),
        };
        Ok(Leaf::new(name, linear))
    }

    /// A linear layer that has a bias iff the checkpoint holds one.
    pub fn linear_any_bias(&self, name: &str, input: i32, output: i32) -> Result<Leaf<Linear>> {
        let bias = self.at(name).has("bias");
        self.linear(name, input, output, bias)
    }

    /// An embedding [rows, dims].
    pub fn embedding(&self, name: &str, rows: i32, dims: i32) -> Result<Leaf<Embedding>> {
        let l = self.at(name);
        if let Some([codes, book]) = l.coded(&[], rows, dims)? {
            let mut table = Embedding::codebook(codes, book);
            l.rotation(dims)?.into_iter().for_each(|r| table.set_rotation(r));
            l.global_scale(&[], rows)?.into_iter().for_each(|s| table.set_global_scale(s));
            return Ok(Leaf::new(name, table));
        }
        let embedding = match l.packed(&[rows], dims)? {
            Some(p) => {
                let mut table = Embedding::quantized(p.weight, p.scales, p.biases, p.quant);
                l.rotation(dims)?.into_iter().for_each(|r| table.set_rotation(r));
                l.global_scale(&[], rows)?.into_iter().for_each(|s| table.set_global_scale(s));
                table
            }
            None => Embedding::new(l.array("weight", &[rows, dims])?),
        };
        Ok(Leaf::new(name, embedding))
    }

    /// Linear layers of all experts [experts, out, in].
    pub fn switch_linear(
        &self,
        name: &str,
        experts: i32,
        input: i32,
        output: i32,
        bias: bool,
    ) -> Result<Leaf<SwitchLinear>> {
        let l = self.at(name);
        let bias = if bias { Some(l.array("bias", &[experts, output])?) } else { None };
        if let Some([codes, book]) = l.coded(&[experts], output, input)? {
            let mut switch = SwitchLinear::codebook(codes, book, bias);
            l.rotation(input)?.into_iter().for_each(|r| switch.set_rotation(r));
            l.global_scale(&[experts], output)?.into_iter().for_each(|s| switch.set_global_scale(s));
            return Ok(Leaf::new(name, switch));
        }
        let switch = match l.packed(&[experts, output], input)? {
            Some(p) => {
                let mut switch = SwitchLinear::quantized(p.weight, p.scales, p.biases, p.quant, bias);
                l.global_scale(&[experts], output)?.into_iter().for_each(|s| switch.set_global_scale(s));
                switch
            }
            None => SwitchLinear::new(l.array("weight", &[experts, output, input])?, bias),
        };
        Ok(Leaf::new(name, switch))
    }

    /// Codes and book of a weight [..lead, rows, input], if it is stored so.
    fn coded(&self, lead: &[i32], rows: i32, input: i32) -> Result<Option<[Array; 2]>> {
        if self.shared.random.is_some() || !self.has("codebook") {
            return Ok(None);
        }
        // one for all experts, or one each
        let flat = self.shape("codebook").is_some_and(|s| s.len() == 2);
        let book = self.array("codebook", &[if flat { &[] } else { lead }, &[-1, -1]].concat())?;
        let (codes, width) = (self.any("weight")?, book.dim(-1));
        if width == 0 || input % width != 0 || codes.shape() != [lead, &[rows, input / width]].concat() {
            let whole = [lead, &[rows, input]].concat();
            let m = format!("codes {:?} of vectors {:?} are no {whole:?}", codes.shape(), book.shape());
            return Err(Error::tensor(self.path("weight"), m));
        }
        Ok(Some([codes, book]))
    }

    /// A factor of a whole packed weight, or of each of its rows; one for each of `lead`.
    fn global_scale(&self, lead: &[i32], rows: i32) -> Result<Option<Array>> {
        if !self.has("global_scale") {
            return Ok(None);
        }
        let scale = self.shared.tensors.borrow_mut().take_exact(&self.path("global_scale"))?;
        let each = [lead, &[rows]].concat();
        let fits = scale.shape() == lead || scale.shape() == each;
        if fits { Ok(Some(scale)) } else { Err(self.wrong_shape("global_scale", scale.shape(), &each)) }
    }

    /// The packed form of a weight [..rows, input], if it is stored so.
    fn packed(&self, rows: &[i32], input: i32) -> Result<Option<Packed>> {
        self.stored(rows, input)?.map(Packed::in_one_buffer).transpose()
    }

    fn stored(&self, rows: &[i32], input: i32) -> Result<Option<Packed>> {
        if let Some(random) = &self.shared.random {
            return self.packed_random(random, rows, input);
        }
        if !self.has("scales") {
            return Ok(None);
        }
        if let Some(jang) = self.shared.jang.as_ref().filter(|_| self.is_bytes("weight")) {
            let sides = [self.any("weight")?, self.any("scales")?, self.any("biases")?];
            return jang.packed(&self.prefix, sides, rows, input).map(Some);
        }
        let shape = |last: i32| rows.iter().copied().chain([last]).collect::<Vec<_>>();
        let weight = self.array("weight", &shape(-1))?;
        let scales = self.array("scales", &shape(-1))?;
        let biases = if self.has("biases") { Some(self.array("biases", scales.shape())?) } else { None };
        let quant = self.quant(&weight, &scales, biases.is_some(), input)?;
        Ok(Some(Packed { weight, scales, biases, quant }))
    }

    fn is_bytes(&self, name: &str) -> bool {
        self.shared.tensors.borrow().is_bytes(&self.path(name))
    }

    /// The rotated basis of a weight: `signs` [blocks, block], as families leave them, or `power_signs` [1 or experts, in]
    /// of blocks of descending powers of two, the same for all experts.
    fn rotation(&self, input: i32) -> Result<Option<Rotation>> {
        let powers = self.has("power_signs");
        let name = if powers { "power_signs" } else { "signs" };
        if !self.has(name) {
            return Ok(None);
        }
        let signs = self.any(name)?;
        // those of each expert are stacked
        let signs = if powers { signs.flatten(0, -2).slice_axis(0, 0..1) } else { signs };
        let [blocks, block] = *signs.shape() else { return Err(self.wrong_shape(name, signs.shape(), &[-1, -1])) };
        if i64::from(blocks) * i64::from(block) != i64::from(input) {
            return Err(self.wrong_shape(name, signs.shape(), &[-1, block]));
        }
        if !self.is_outline() && !signs.astype(Dtype::Float32).abs().eq(1.0).all(()).item::<bool>()? {
            return Err(Error::tensor(self.path(name), "signs other than 1 and -1"));
        }
        let signs = signs.flatten(0, 1);
        Ok(Some(if powers { Rotation::of_powers(signs) } else { Rotation::new(signs, block) }))
    }

    fn packed_random(&self, random: &RandomWeights, rows: &[i32], input: i32) -> Result<Option<Packed>> {
        let Some(q) = &self.shared.quant else { return Ok(None) };
        let Some(p) = q.listed(&self.prefix).unwrap_or(Some(q.default)) else { return Ok(None) };
        let quant = Quant { group_size: p.group_size as i32, bits: p.bits as i32, mode: mode(p.mode) };
        // as Python: what does not divide into groups stays dense
        if input % quant.group_size != 0 {
            return Ok(None);
        }
        let (weight, scales, biases) = random.packed(&self.path("weight"), rows, input, quant)?;
        Ok(Some(Packed { weight, scales, biases, quant }))
    }

    /// Group size, bits and mode from the packed geometry, cross-checked with the config.
    fn quant(&self, weight: &Array, scales: &Array, biases: bool, input: i32) -> Result<Quant> {
        let fail = |m: String| Err(Error::tensor(self.path("weight"), m));
        let (words, groups) = (weight.dim(-1), scales.dim(-1));
        if weight.dtype() != Dtype::Uint32
            || words == 0
            || groups == 0
            || input % groups != 0
            || words * 32 % input != 0
        {
            return fail(format!(
                "packed {:?} {} with scales {:?} does not hold {input} inputs",
                weight.shape(),
                weight.dtype(),
                scales.shape()
            ));
        }
        let (group_size, bits) = (input / groups, words * 32 / input);
        let listed = self.shared.quant.as_ref().map(|q| match q.listed(&self.prefix) {
            Some(listed) => (listed, true),
            None => (Some(q.default), false),
        });
        let by_shape = match (scales.dtype(), group_size, bits) {
            (Dtype::Uint8, 16, 4) => QuantMode::Nvfp4,
            (Dtype::Uint8, 32, 4) => QuantMode::Mxfp4,
            (Dtype::Uint8, 32, 8) => QuantMode::Mxfp8,
            _ => QuantMode::Affine,
        };
        if let Some((Some(q), true)) = listed
            && (q.group_size as i32, q.bits as i32, q.mode) != (group_size, bits, by_shape)
        {
            return fail(format!("config says {q}, the packed shapes say {by_shape} {bits}-bit group {group_size}"));
        }
        if (by_shape == QuantMode::Affine) != biases {
            return fail(format!("mode {by_shape} {} biases", if biases { "has no" } else { "needs" }));
        }
        let quant = Quant { group_size, bits, mode: mode(by_shape) };
        if quant.is_valid() { Ok(quant) } else { fail(format!("{quant:?} is not supported")) }
    }

    /// Puts all weights of a part into one buffer where kernels gain by it (`mlx::fast::share_buffer`).
    ///
    /// # Errors
    /// A weight cannot be read.
    pub fn in_one_buffer(&self, part: &mut dyn Module) -> Result<()> {
        if self.is_outline() || !mlx::fast::has_layer_kernels() {
            return Ok(());
        }
        let mut all = Vec::new();
        part.visit(&mut Path::new(), &mut |_, p| all.push(p.value().clone()));
        if let Some(shared) = mlx::fast::share_buffer(&all.iter().collect::<Vec<_>>())? {
            let mut shared = shared.into_iter();
            part.visit_mut(&mut Path::new(), &mut |_, p| p.set(shared.next().unwrap_or_else(|| p.value().clone())));
        }
        Ok(())
    }

    /// Whether stand-ins are taken in place of the weights.
    pub fn is_outline(&self) -> bool {
        self.shared.tensors.borrow().is_outline()
    }

    /// What was not taken; other handles of these leaves keep nothing.
    pub(super) fn into_tensors(self) -> Tensors {
        self.shared.tensors.take()
    }

    /// Ends loading: what nobody asked for is an error that names it.
    pub fn finish(self) -> Result<()> {
        let tensors = self.shared.tensors.borrow();
        let left: Vec<&str> = tensors.names().collect();
        match left.as_slice() {
            [] => Ok(()),
            [first, ..] => {
                let more = if left.len() > 1 { format!(" (and {} more)", left.len() - 1) } else { String::new() };
                Err(Error::tensor(*first, format!("in {} belongs to no part of this model{more}", tensors.origin())))
            }
        }
    }
}

pub(super) struct Packed {
    pub weight: Array,
    pub scales: Array,
    pub biases: Option<Array>,
    pub quant: Quant,
}

impl Packed {
    /// Laid out for kernels that take one array (`mlx::fast::share_buffer`), where there are such.
    fn in_one_buffer(self) -> Result<Packed> {
        let arrays: Vec<&Array> = [&self.weight, &self.scales].into_iter().chain(&self.biases).collect();
        let Some(shared) = mlx::fast::share_buffer(&arrays)? else { return Ok(self) };
        let mut shared = shared.into_iter();
        match (shared.next(), shared.next()) {
            (Some(weight), Some(scales)) => Ok(Packed { weight, scales, biases: shared.next(), quant: self.quant }),
            _ => Ok(self),
        }
    }
}

/// The config's mode as the array layer names it.
pub fn mode(m: QuantMode) -> mlx::QuantMode {
    match m {
        QuantMode::Affine => mlx::QuantMode::Affine,
        QuantMode::Mxfp4 => mlx::QuantMode::Mxfp4,
        QuantMode::Mxfp8 => mlx::QuantMode::Mxfp8,
        QuantMode::Nvfp4 => mlx::QuantMode::Nvfp4,
    }
}
