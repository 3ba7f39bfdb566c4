//! Layers by their Python constructors.

use super::args::{Args, Fail, R, as_array, float, int, ints, wrong};
use super::data::{Case, Value};
use super::nn::{dict_field, list_field};
use mlx::nn::{self, Embedding, Layer, Linear, Module};
use mlx::{Array, Conv, ConvTranspose, Quant, QuantMode};

/// A layer and how Python calls it.
pub trait Net {
    fn module(&mut self) -> &mut dyn Module;
    fn call(&self, a: &Args<'_>) -> R<Value>;
}

struct With<M, F>(M, F);

impl<M: Module + 'static, F: Fn(&M, &Args<'_>) -> R<Value>> Net for With<M, F> {
    fn module(&mut self) -> &mut dyn Module {
        &mut self.0
    }
    fn call(&self, a: &Args<'_>) -> R<Value> {
        (self.1)(&self.0, a)
    }
}

fn with<M: Module + 'static>(m: M, f: impl Fn(&M, &Args<'_>) -> R<Value> + 'static) -> R<Box<dyn Net>> {
    Ok(Box::new(With(m, f)))
}

fn simple<M: Layer + 'static>(m: M) -> R<Box<dyn Net>> {
    with(m, |m, a| Ok(m.forward(&a.array(0, "x")?).into()))
}

/// One number for all axes, or one for each.
fn sizes<const N: usize>(v: Option<&Value>, default: i32) -> R<[i32; N]> {
    match v {
        None | Some(Value::Null) => Ok([default; N]),
        Some(v @ (Value::List(_) | Value::Tuple(_))) => ints(v)?.try_into().or_else(wrong),
        Some(v) => Ok([int(v)?; N]),
    }
}

fn conv<const N: usize>(c: &Args<'_>) -> R<Conv<N>> {
    Ok(Conv {
        stride: sizes(c.given(3, "stride"), 1)?,
        padding: sizes(c.given(4, "padding"), 0)?,
        dilation: sizes(c.given(5, "dilation"), 1)?,
        groups: c.int_or(6, "groups", 1)?,
    })
}

fn transposed<const N: usize>(c: &Args<'_>) -> R<ConvTranspose<N>> {
    Ok(ConvTranspose {
        stride: sizes(c.given(3, "stride"), 1)?,
        padding: sizes(c.given(4, "padding"), 0)?,
        dilation: sizes(c.given(5, "dilation"), 1)?,
        output_padding: sizes(c.given(6, "output_padding"), 0)?,
        groups: 1,
    })
}

/// Group size, bits and mode by keyword.
pub fn quant(c: &Args<'_>) -> R<Quant> {
    let mode = c.opt_str(9, "mode")?.unwrap_or("affine");
    let Some(mode) = QuantMode::from_name(mode) else { return wrong(mode) };
    let default = Quant::of_mode(mode);
    Ok(Quant {
        group_size: c.int_or(9, "group_size", default.group_size)?,
        bits: c.int_or(9, "bits", default.bits)?,
        mode,
    })
}

fn function(v: Option<&Value>, default: fn(&Array) -> Array) -> R<fn(&Array) -> Array> {
    match v {
        None => Ok(default),
        Some(Value::Str(s)) => match s.as_str() {
            "nn.relu" => Ok(nn::relu),
            "nn.gelu" => Ok(nn::gelu),
            "nn.tanh" => Ok(nn::tanh),
            _ => wrong(s),
        },
        other => wrong(other),
    }
}

fn transformer(c: &Args<'_>) -> R<nn::TransformerOptions> {
    let d = nn::TransformerOptions::default();
    Ok(nn::TransformerOptions {
        mlp_dims: c.opt_int(9, "mlp_dims")?,
        dropout: c.float_or(9, "dropout", 0.0)?,
        activation: function(c.given(9, "activation"), d.activation)?,
        norm_first: c.bool_or(9, "norm_first", true)?,
        checkpoint: c.bool_or(9, "checkpoint", false)?,
    })
}

macro_rules! pool {
    ($t:ident, $c:ident) => {{
        let kernel_size = sizes($c.given(0, "kernel_size"), 1)?;
        let stride = match $c.some(1, "stride") {
            None => kernel_size,
            given => sizes(given, 1)?,
        };
        simple(nn::$t { kernel_size, stride, padding: sizes($c.given(2, "padding"), 0)? })
    }};
}

/// The layer of a record.
pub fn build(name: &str, case: &Case) -> R<Box<dyn Net>> {
    let (pos, kw) = (list_field(case, "ctor"), dict_field(case, "ctor_kwargs"));
    let c = Args { pos: &pos, kw: &kw };
    let (dim, flag) = (|i: usize| int(pos.get(i).ok_or(Fail::Unknown)?), |n: &str, d: bool| c.bool_or(9, n, d));
    let real = |i: usize, n: &str, d: f64| c.float_or(i, n, d);
    let eps = || Ok::<f32, Fail>(real(9, "eps", 1e-5)? as f32);
    match name {
        "Sigmoid" => simple(nn::Sigmoid {}),
        "Mish" => simple(nn::Mish {}),
        "ReLU" => simple(nn::ReLU {}),
        "ReLU2" => simple(nn::ReLU2 {}),
        "ReLU6" => simple(nn::ReLU6 {}),
        "LeakyReLU" => simple(nn::LeakyReLU { negative_slope: real(0, "negative_slope", 0.01)? }),
        "ELU" => simple(nn::ELU { alpha: real(0, "alpha", 1.0)? }),
        "CELU" => simple(nn::CELU { alpha: real(0, "alpha", 1.0)? }),
        "Softmax" => simple(nn::Softmax {}),
        "Softmin" => simple(nn::Softmin {}),
        "Softplus" => simple(nn::Softplus {}),
        "Softsign" => simple(nn::Softsign {}),
        "Softshrink" => simple(nn::Softshrink { lambd: real(0, "lambd", 0.5)? }),
        "HardShrink" => simple(nn::HardShrink { lambd: real(0, "lambd", 0.5)? }),
        "HardTanh" => simple(nn::HardTanh {}),
        "Hardswish" => simple(nn::Hardswish {}),
        "SiLU" => simple(nn::SiLU {}),
        "SELU" => simple(nn::SELU {}),
        "Tanh" => simple(nn::Tanh {}),
        "LogSigmoid" => simple(nn::LogSigmoid {}),
        "LogSoftmax" => simple(nn::LogSoftmax {}),
        "Identity" => simple(nn::Identity {}),
        "Step" => simple(nn::Step { threshold: real(0, "threshold", 0.0)? }),
        "GLU" => simple(nn::GLU { axis: c.int_or(0, "axis", -1)? }),
        "GELU" => simple(nn::GELU {
            approx: match c.opt_str(0, "approx")? {
                None | Some("none") => nn::GeluApprox::None,
                Some("precise" | "tanh") => nn::GeluApprox::Precise,
                Some("fast") => nn::GeluApprox::Fast,
                Some(other) => return wrong(other),
            },
        }),
        "PReLU" => simple(nn::PReLU::init(c.int_or(0, "num_parameters", 1)?, real(1, "init", 0.25)?)),
        "Linear" => simple(Linear::init(dim(0)?, dim(1)?, flag("bias", true)?)),
        "QuantizedLinear" => simple(Linear::init_quantized(dim(0)?, dim(1)?, flag("bias", true)?, quant(&c)?)),
        "QQLinear" => {
            let q = if kw.contains_key("mode") { quant(&c)? } else { Quant::of_mode(QuantMode::Nvfp4) };
            simple(nn::QQLinear::init(dim(0)?, dim(1)?, q))
        }
        "Bilinear" => with(nn::Bilinear::init(dim(0)?, dim(1)?, dim(2)?, flag("bias", true)?), |m, a| {
            Ok(m.forward(&a.array(0, "x1")?, &a.array(1, "x2")?).into())
        }),
        "Embedding" => simple(Embedding::init(dim(0)?, dim(1)?)),
        "QuantizedEmbedding" => {
            let mut e = Embedding::init(dim(0)?, dim(1)?);
            e.quantize(quant(&c)?);
            simple(e)
        }
        "RMSNorm" => simple(nn::RmsNorm::init(dim(0)?, eps()?)),
        "LayerNorm" => simple(nn::LayerNorm::init(dim(0)?, eps()?, flag("affine", true)?, flag("bias", true)?)),
        "InstanceNorm" => simple(nn::InstanceNorm::init(dim(0)?, eps()?, flag("affine", false)?)),
        "GroupNorm" => simple(nn::GroupNorm::init(
            dim(0)?,
            dim(1)?,
            eps()?,
            flag("affine", true)?,
            flag("pytorch_compatible", false)?,
        )),
        "BatchNorm" => simple(nn::BatchNorm::init(
            dim(0)?,
            eps()?,
            real(9, "momentum", 0.1)?,
            flag("affine", true)?,
            flag("track_running_stats", true)?,
        )),
        "Dropout" => simple(nn::Dropout::new(real(0, "p", 0.5)?)),
        "Dropout2d" => simple(nn::Dropout2d::new(real(0, "p", 0.5)?)),
        "Dropout3d" => simple(nn::Dropout3d::new(real(0, "p", 0.5)?)),
        "Conv1d" => simple(nn::Conv1d::init(dim(0)?, dim(1)?, sizes(pos.get(2), 1)?, flag("bias", true)?, conv(&c)?)),
        "Conv2d" => simple(nn::Conv2d::init(dim(0)?, dim(1)?, sizes(pos.get(2), 1)?, flag("bias", true)?, conv(&c)?)),
        "Conv3d" => simple(nn::Conv3d::init(dim(0)?, dim(1)?, sizes(pos.get(2), 1)?, flag("bias", true)?, conv(&c)?)),
        "ConvTranspose1d" => {
            let (kernel, bias) = (sizes(pos.get(2), 1)?, flag("bias", true)?);
            simple(nn::ConvTranspose1d::init(dim(0)?, dim(1)?, kernel, bias, transposed(&c)?))
        }
        "ConvTranspose2d" => {
            let (kernel, bias) = (sizes(pos.get(2), 1)?, flag("bias", true)?);
            simple(nn::ConvTranspose2d::init(dim(0)?, dim(1)?, kernel, bias, transposed(&c)?))
        }
        "ConvTranspose3d" => {
            let (kernel, bias) = (sizes(pos.get(2), 1)?, flag("bias", true)?);
            simple(nn::ConvTranspose3d::init(dim(0)?, dim(1)?, kernel, bias, transposed(&c)?))
        }
        "MaxPool1d" => pool!(MaxPool1d, c),
        "MaxPool2d" => pool!(MaxPool2d, c),
        "MaxPool3d" => pool!(MaxPool3d, c),
        "AvgPool1d" => pool!(AvgPool1d, c),
        "AvgPool2d" => pool!(AvgPool2d, c),
        "AvgPool3d" => pool!(AvgPool3d, c),
        "Upsample" => {
            let factor = c.given(0, "scale_factor").ok_or(Fail::Unknown)?;
            let scale_factor = match factor.items() {
                Some(v) => v.iter().map(float).collect::<R<_>>()?,
                None => vec![float(factor)?],
            };
            let mode = match c.opt_str(1, "mode")? {
                None | Some("nearest") => nn::UpsampleMode::Nearest,
                Some("linear") => nn::UpsampleMode::Linear,
                Some("cubic") => nn::UpsampleMode::Cubic,
                Some(other) => return wrong(other),
            };
            let (align_corners, antialias) = (flag("align_corners", false)?, flag("antialias", false)?);
            simple(nn::Upsample { scale_factor, mode, align_corners, antialias })
        }
        "RoPE" => {
            let d = nn::Rope::new(dim(0)?, flag("traditional", false)?);
            let (base, scale) = (real(9, "base", 10000.0)? as f32, real(9, "scale", 1.0)? as f32);
            with(nn::Rope { base, scale, ..d }, |m, a| {
                Ok(m.forward(&a.array(0, "x")?, a.int_or(1, "offset", 0)?).into())
            })
        }
        "SinusoidalPositionalEncoding" => {
            let (low, high) = (real(9, "min_freq", 0.0001)?, real(9, "max_freq", 1.0)?);
            let mut m = nn::SinusoidalPositionalEncoding::with_range(dim(0)?, low, high, flag("full_turns", false)?);
            m.cos_first = flag("cos_first", false)?;
            m.scale = real(9, "scale", m.scale)?;
            simple(m)
        }
        "ALiBi" => with(nn::ALiBi, |m, a| {
            let mask = a.opt_array(2, "mask")?;
            Ok(m.forward(&a.array(0, "scores")?, a.int_or(1, "offset", 0)?, mask.as_ref()).into())
        }),
        "RNN" => {
            let mut m = nn::RNN::init(dim(0)?, dim(1)?, flag("bias", true)?);
            m.nonlinearity = function(c.given(9, "nonlinearity"), nn::tanh)?;
            with(m, |m, a| Ok(m.forward(&a.array(0, "x")?, a.opt_array(1, "hidden")?.as_ref()).into()))
        }
        "GRU" => with(nn::GRU::init(dim(0)?, dim(1)?, flag("bias", true)?), |m, a| {
            Ok(m.forward(&a.array(0, "x")?, a.opt_array(1, "hidden")?.as_ref()).into())
        }),
        "LSTM" => with(nn::LSTM::init(dim(0)?, dim(1)?, flag("bias", true)?), |m, a| {
            let (hidden, cell) = (a.opt_array(1, "hidden")?, a.opt_array(2, "cell")?);
            Ok(m.forward(&a.array(0, "x")?, hidden.as_ref(), cell.as_ref()).into())
        }),
        "MultiHeadAttention" => {
            let d = nn::AttentionDims {
                query_input: c.opt_int(9, "query_input_dims")?,
                key_input: c.opt_int(9, "key_input_dims")?,
                value_input: c.opt_int(9, "value_input_dims")?,
                value: c.opt_int(9, "value_dims")?,
                value_output: c.opt_int(9, "value_output_dims")?,
            };
            with(nn::MultiHeadAttention::with_dims(dim(0)?, dim(1)?, d, flag("bias", false)?), |m, a| {
                let mask = a.opt_array(3, "mask")?;
                let (q, k, v) = (a.array(0, "queries")?, a.array(1, "keys")?, a.array(2, "values")?);
                Ok(m.forward(&q, &k, &v, mask.as_ref()).into())
            })
        }
        "TransformerEncoderLayer" => {
            with(nn::TransformerEncoderLayer::init(dim(0)?, dim(1)?, transformer(&c)?), |m, a| {
                Ok(m.forward(&a.array(0, "x")?, a.opt_array(1, "mask")?.as_ref()).into())
            })
        }
        "TransformerEncoder" => {
            with(nn::TransformerEncoder::init(dim(0)? as usize, dim(1)?, dim(2)?, transformer(&c)?), |m, a| {
                Ok(m.forward(&a.array(0, "x")?, a.opt_array(1, "mask")?.as_ref()).into())
            })
        }
        "TransformerDecoderLayer" => {
            with(nn::TransformerDecoderLayer::init(dim(0)?, dim(1)?, transformer(&c)?), |m, a| {
                let (xm, mm) = (a.opt_array(2, "x_mask")?, a.opt_array(3, "memory_mask")?);
                Ok(m.forward(&a.array(0, "x")?, &a.array(1, "memory")?, xm.as_ref(), mm.as_ref()).into())
            })
        }
        "TransformerDecoder" => {
            with(nn::TransformerDecoder::init(dim(0)? as usize, dim(1)?, dim(2)?, transformer(&c)?), |m, a| {
                let (xm, mm) = (a.opt_array(2, "x_mask")?, a.opt_array(3, "memory_mask")?);
                Ok(m.forward(&a.array(0, "x")?, &a.array(1, "memory")?, xm.as_ref(), mm.as_ref()).into())
            })
        }
        "Transformer" => {
            let (e, d) = (dim(2)? as usize, dim(3)? as usize);
            with(nn::Transformer::init(dim(0)?, dim(1)?, e, d, transformer(&c)?), |m, a| {
                let masks = [2, 3, 4].map(|i| a.pos.get(i).and_then(|v| as_array(v).ok()));
                let [s, t, mm] = [0, 1, 2].map(|i| masks[i].as_ref());
                Ok(m.forward(&a.array(0, "src")?, &a.array(1, "tgt")?, s, t, mm).into())
            })
        }
        _ => Err(Fail::Unknown),
    }
}
