//! Packed matrices: what the formats are and a checked view of one. Elements are a contiguous stream of codes along a row, least
//! significant bit first, with one scale (and in affine form one bias) per group of elements.

use crate::data::{DType, Floats};
use crate::error::{Error, Result, room};
use crate::simd::{FP4, FP8, FP8_VALUES, bits};

/// How codes become numbers; names as in MLX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `scale * q + bias`, q an integer of 2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128, float scales and biases.
    Affine { bits: u8, group: u8 },
    /// e2m1 elements, groups of 32 with a power of two (e8m0 byte).
    Mxfp4,
    /// e4m3 elements, groups of 32 with a power of two (e8m0 byte).
    Mxfp8,
    /// e2m1 elements, groups of 16 with an e4m3 byte.
    Nvfp4,
}

impl Mode {
    /// Elements per group.
    pub fn group(self) -> usize {
        match self {
            Mode::Affine { group, .. } => group.into(),
            Mode::Mxfp4 | Mode::Mxfp8 => 32,
            Mode::Nvfp4 => 16,
        }
    }
    /// Bits per element.
    pub fn bits(self) -> usize {
        bits(self.code())
    }
    pub(crate) fn code(self) -> u32 {
        match self {
            Mode::Affine { bits, .. } => bits.into(),
            Mode::Mxfp4 | Mode::Nvfp4 => FP4,
            Mode::Mxfp8 => FP8,
        }
    }
    fn check(self) -> Result<()> {
        match self {
            Mode::Affine { bits: 2..=6 | 8, group: 32 | 64 | 128 } => Ok(()),
            Mode::Affine { group: 32 | 64 | 128, .. } => {
                Err(Error::Unsupported { what: "bits", why: "affine codes have 2, 3, 4, 5, 6 or 8 bits" })
            }
            Mode::Affine { .. } => Err(Error::Unsupported { what: "group", why: "affine groups are 32, 64 or 128" }),
            _ => Ok(()),
        }
    }
}

/// Scales of the float modes: one byte per group.
pub(crate) fn scale_of(mode: Mode, byte: u8) -> f32 {
    match mode {
        Mode::Nvfp4 => FP8_VALUES[byte as usize],
        // a bf16 whose exponent is the byte; 0 is the subnormal 2^-127
        _ => f32::from_bits(if byte == 0 { 0x40_0000 } else { u32::from(byte) << 23 }),
    }
}

/// Scales (and biases) of a packed matrix, `[rows, cols / group]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scales<'a> {
    Affine { scales: Floats<'a>, biases: Floats<'a> },
    Bytes(&'a [u8]),
}

/// A packed matrix `[rows, cols]`; a stack of experts `[E, N, K]` is one of `E * N` rows.
#[derive(Debug, Clone, Copy)]
pub struct Quantized<'a> {
    pub(crate) mode: Mode,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) words: &'a [u8],
    pub(crate) scales: Scales<'a>,
}

impl<'a> Quantized<'a> {
    /// An affine matrix. `words` are the bytes of the packed u32 words (any alignment), `scales` and `biases` hold
    /// `rows * cols / group` numbers of one type.
    ///
    /// # Errors
    /// Unknown bits or group, `cols` not a multiple of the group, a buffer too short, scales and biases of different types.
    pub fn affine(
        bits: u8,
        group: u8,
        rows: usize,
        cols: usize,
        words: &'a [u8],
        scales: Floats<'a>,
        biases: Floats<'a>,
    ) -> Result<Self> {
        let mode = Mode::Affine { bits, group };
        let groups = Self::check(mode, rows, cols, words)?;
        room("scales", groups, scales.len())?;
        room("biases", groups, biases.len())?;
        if scales.dtype() != biases.dtype() {
            return Err(Error::Unsupported { what: "biases", why: "must have the type of the scales" });
        }
        Ok(Quantized { mode, rows, cols, words, scales: Scales::Affine { scales, biases } })
    }
    /// A matrix in one of the float modes, with one scale byte per group.
    ///
    /// # Errors
    /// `mode` is affine, `cols` is not a multiple of the group, or a buffer is too short.
    pub fn float(mode: Mode, rows: usize, cols: usize, words: &'a [u8], scales: &'a [u8]) -> Result<Self> {
        if matches!(mode, Mode::Affine { .. }) {
            return Err(Error::Unsupported { what: "mode", why: "affine needs scales and biases in floats" });
        }
        let groups = Self::check(mode, rows, cols, words)?;
        room("scales", groups, scales.len())?;
        Ok(Quantized { mode, rows, cols, words, scales: Scales::Bytes(scales) })
    }
    fn check(mode: Mode, rows: usize, cols: usize, words: &[u8]) -> Result<Option<usize>> {
        mode.check()?;
        if !cols.is_multiple_of(mode.group()) || !(cols * mode.bits()).is_multiple_of(32) {
            return Err(Error::Unsupported { what: "columns", why: "not a whole number of groups and words" });
        }
        room("packed words", rows.checked_mul(cols / 8 * mode.bits() + cols % 8 * mode.bits() / 8), words.len())?;
        Ok(rows.checked_mul(cols / mode.group()))
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns (elements, not words).
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Format.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    pub(crate) fn row_bytes(&self) -> usize {
        self.cols * self.mode.bits() / 8
    }
    pub(crate) fn row_groups(&self) -> usize {
        self.cols / self.mode.group()
    }
    /// Scale and bias of a group counted over the whole matrix.
    pub(crate) fn group_params(&self, g: usize) -> (f32, f32) {
        match self.scales {
            Scales::Affine { scales, biases } => (scales.get(g).unwrap_or(0.0), biases.get(g).unwrap_or(0.0)),
            Scales::Bytes(b) => (b.get(g).map_or(0.0, |b| scale_of(self.mode, *b)), 0.0),
        }
    }
    /// Bytes read when the whole matrix is used once.
    pub fn nbytes(&self) -> usize {
        let per = match self.scales {
            Scales::Affine { scales, .. } => 2 * scales.dtype().size(),
            Scales::Bytes(_) => 1,
        };
        self.rows * (self.row_bytes() + self.row_groups() * per)
    }
}

/// A matrix `[rows, cols]` with contiguous rows, dense or packed.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    Dense { data: Floats<'a>, rows: usize, cols: usize },
    Quantized(Quantized<'a>),
}

impl<'a> Matrix<'a> {
    /// A dense matrix.
    ///
    /// # Errors
    /// The buffer is too short.
    pub fn dense(data: Floats<'a>, rows: usize, cols: usize) -> Result<Self> {
        room("weights", rows.checked_mul(cols), data.len())?;
        Ok(Matrix::Dense { data, rows, cols })
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Matrix::Dense { rows, .. } => *rows,
            Matrix::Quantized(q) => q.rows,
        }
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        match self {
            Matrix::Dense { cols, .. } => *cols,
            Matrix::Quantized(q) => q.cols,
        }
    }
    pub(crate) fn row_bytes(&self) -> usize {
        match self {
            Matrix::Dense { data, cols, .. } => cols * data.dtype().size(),
            Matrix::Quantized(q) => q.row_bytes(),
        }
    }
    pub(crate) fn dense_type(&self) -> Option<DType> {
        match self {
            Matrix::Dense { data, .. } => Some(data.dtype()),
            Matrix::Quantized(_) => None,
        }
    }
}

impl<'a> From<Quantized<'a>> for Matrix<'a> {
    fn from(q: Quantized<'a>) -> Self {
        Matrix::Quantized(q)
    }
}
