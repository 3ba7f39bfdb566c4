//! Launches of low-rank updates and their gradients (`low_rank.cuh`).

use super::kernel::{Launch, Scalar};
use super::{COMMON, Gpu, LOW_RANK, Spec, Table, is_half, kernel};
use crate::{Array, Dtype};
use std::iter::repeat_n;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    In,
    Out,
    BackOut,
    BackIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LowRank {
    f16: bool,
    kind: Kind,
    parts: usize,
    rank: i32,
}

/// Threads, and rows and columns, of a block; as the source has them.
const THREADS: i32 = 512;
const ROWS_IN: i32 = 4;
const ROWS_OUT: i32 = 8;
const COLUMNS_IN: i32 = 64;

/// Ranks that one block takes.
fn chunk(rank: i32) -> i32 {
    if rank % 8 == 0 { 8 } else { 4 }
}

impl Spec for LowRank {
    fn name(&self) -> String {
        format!("low_{self:?}")
    }

    fn source(&self, name: &str) -> String {
        let (p, r, c) = (self.parts, self.rank, chunk(self.rank));
        let each = |what: &str| (0..p).map(|i| format!("{what}{i}")).collect::<Vec<_>>().join(", ");
        let body = match self.kind {
            Kind::In => format!(
                "const u16* x, {}, float* h, int m, int k) {{ const float* const a[] = {{ {} }}; \
                 low_rank_in<{p}, {r}, {c}>(x, a, h, m, k); }}",
                each("const float* a"),
                each("a")
            ),
            Kind::Out => format!(
                "{}, {}, const float* h, {}, int m, {}, float scale) {{ const u16* const base[] = {{ {} }}; \
                 const float* const b[] = {{ {} }}; u16* const y[] = {{ {} }}; const int n[] = {{ {} }}; \
                 low_rank_out<{p}, {r}>(base, b, h, y, m, n, scale); }}",
                each("const u16* base"),
                each("const float* b"),
                each("u16* y"),
                each("int n"),
                each("base"),
                each("b"),
                each("y"),
                each("n")
            ),
            Kind::BackOut => format!(
                "{}, {}, const float* h, float* dh, {}, int m, {}, float scale) {{ const u16* const dy[] = {{ {} }}; \
                 const float* const b[] = {{ {} }}; float* const db[] = {{ {} }}; const int n[] = {{ {} }}; \
                 low_rank_back_out<{p}, {r}, {c}>(dy, b, h, dh, db, m, n, scale); }}",
                each("const u16* dy"),
                each("const float* b"),
                each("float* db"),
                each("int n"),
                each("dy"),
                each("b"),
                each("db"),
                each("n")
            ),
            Kind::BackIn => format!(
                "const u16* x, const u16* base, const float* dh, {}, u16* dx, {}, int m, int k) {{ \
                 const float* const a[] = {{ {} }}; float* const da[] = {{ {} }}; \
                 low_rank_back_in<{p}, {r}, {c}>(x, base, dh, a, dx, da, m, k); }}",
                each("const float* a"),
                each("float* da"),
                each("a"),
                each("da")
            ),
        };
        format!(
            "#define HALF {}\n{COMMON}{LOW_RANK}\nextern \"C\" __global__ void __launch_bounds__({THREADS}) {name}({body}\n",
            self.f16 as u8
        )
    }
}

thread_local! { static KERNELS: Table<LowRank> = Table::default(); }

/// Products that share x [m, k], with factors of one rank; checked by [`Shape::new`].
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    f16: bool,
    rank: i32,
    m: i32,
    k: i32,
    /// Widths of the products.
    n: Vec<i32>,
}

fn blocks(n: i32, per: i32) -> i32 {
    (n - 1) / per + 1
}

impl Shape {
    /// `None` for what the kernels do not take: x in 16 bits, factors a [k, r] and b [r, n] in float32, r a multiple of 4
    /// up to 32, even widths.
    pub fn new(x: &Array, a: &[Array], b: &[Array]) -> Option<Shape> {
        let (&k, lead) = x.shape().split_last()?;
        let m = lead.iter().try_fold(1i32, |m, &n| m.checked_mul(n))?;
        let rank = a.first()?.dim(-1);
        let factors = a.iter().zip(b).all(|(a, b)| {
            [a, b].iter().all(|f| f.dtype() == Dtype::Float32 && f.ndim() == 2)
                && a.shape() == [k, rank]
                && b.dim(0) == rank
                && b.dim(1) > 0
                && b.dim(1) % 2 == 0
        });
        let fits =
            is_half(x.dtype()) && factors && rank > 0 && rank % 4 == 0 && rank <= 32 && k > 0 && k % 2 == 0 && m > 0;
        let n = b.iter().map(|b| b.dim(1)).collect();
        (fits && a.len() == b.len() && a.len() <= 3).then_some(Shape {
            f16: x.dtype() == Dtype::Float16,
            rank,
            m,
            k,
            n,
        })
    }

    fn parts(&self) -> usize {
        self.n.len()
    }
    fn width(&self) -> i32 {
        self.rank * self.parts() as i32
    }
    fn half(&self) -> Dtype {
        if self.f16 { Dtype::Float16 } else { Dtype::Bfloat16 }
    }
    fn chunks(&self) -> i32 {
        self.rank / chunk(self.rank)
    }
    fn narrow(&self) -> i32 {
        blocks(self.m, ROWS_IN) * self.chunks()
    }
    fn outer(&self, n: i32) -> i32 {
        blocks(n, COLUMNS_IN) * self.chunks()
    }
    fn update(&self, n: i32) -> i32 {
        blocks(n, 2 * THREADS) * blocks(self.m, ROWS_OUT)
    }

    /// # Safety
    /// Inputs, outputs and scalars are those of this kind for this shape.
    #[track_caller]
    unsafe fn launch(
        &self,
        gpu: &Gpu,
        kind: Kind,
        inputs: &[&Array],
        outputs: &[(&[i32], Dtype)],
        scalars: &[Scalar],
        blocks: i32,
    ) -> Option<Vec<Array>> {
        let spec = LowRank { f16: self.f16, kind, parts: self.parts(), rank: self.rank };
        let kernel = kernel(&KERNELS, spec, gpu)?;
        let launch = Launch { grid: [blocks, 1, 1], threads: THREADS, shared: 0 };
        // SAFETY: the caller's
        Some(unsafe { kernel.call(inputs, outputs, scalars, launch) })
    }

    fn widths(&self) -> impl Iterator<Item = Scalar> {
        [Scalar::Int(self.m)].into_iter().chain(self.n.iter().map(|&n| Scalar::Int(n)))
    }

    /// h [m, parts * r] = x a of every part.
    pub fn inward(&self, gpu: &Gpu, x: &Array, a: &[Array]) -> Option<Array> {
        let inputs: Vec<&Array> = [x].into_iter().chain(a).collect();
        let scalars = [Scalar::Int(self.m), Scalar::Int(self.k)];
        let shape = [self.m, self.width()];
        let blocks = self.narrow() * self.parts() as i32;
        // SAFETY: shapes were checked by `new`; rows and columns past the end are left out
        unsafe { self.launch(gpu, Kind::In, &inputs, &[(&shape, Dtype::Float32)], &scalars, blocks) }?.pop()
    }

    /// base + scale * h b of every part, [lead, n].
    pub fn outward(
        &self,
        gpu: &Gpu,
        base: &[Array],
        h: &Array,
        b: &[Array],
        scale: f32,
        lead: &[i32],
    ) -> Option<Vec<Array>> {
        let inputs: Vec<&Array> = base.iter().chain(b).chain([h]).collect();
        let shapes: Vec<Vec<i32>> = self.n.iter().map(|&n| [lead, &[n]].concat()).collect();
        let outputs: Vec<(&[i32], Dtype)> = shapes.iter().map(|s| (s.as_slice(), self.half())).collect();
        let scalars: Vec<Scalar> = self.widths().chain([Scalar::Float(scale)]).collect();
        let blocks = self.n.iter().map(|&n| self.update(n)).sum();
        // SAFETY: as in `inward`
        unsafe { self.launch(gpu, Kind::Out, &inputs, &outputs, &scalars, blocks) }
    }

    /// (dh, db of every part) for dy of every part.
    pub fn back_out(&self, gpu: &Gpu, dy: &[Array], h: &Array, b: &[Array], scale: f32) -> Option<(Array, Vec<Array>)> {
        let inputs: Vec<&Array> = dy.iter().chain(b).chain([h]).collect();
        let shape = [self.m, self.width()];
        let outputs: Vec<(&[i32], Dtype)> =
            [(&shape[..], Dtype::Float32)].into_iter().chain(b.iter().map(|b| (b.shape(), Dtype::Float32))).collect();
        let scalars: Vec<Scalar> = self.widths().chain([Scalar::Float(scale)]).collect();
        let blocks = self.n.iter().map(|&n| self.narrow() + self.outer(n)).sum();
        // SAFETY: as in `inward`
        let mut out = unsafe { self.launch(gpu, Kind::BackOut, &inputs, &outputs, &scalars, blocks) }?.into_iter();
        Some((out.next()?, out.collect()))
    }

    /// (base + dh a^T of all parts in this shape, da of every part).
    pub fn back_in(
        &self,
        gpu: &Gpu,
        x: &Array,
        base: &Array,
        dh: &Array,
        a: &[Array],
        x_shape: &[i32],
    ) -> Option<(Array, Vec<Array>)> {
        let inputs: Vec<&Array> = [x, base, dh].into_iter().chain(a).collect();
        let shape = [self.k, self.rank];
        let outputs: Vec<(&[i32], Dtype)> =
            [(x_shape, self.half())].into_iter().chain(repeat_n((&shape[..], Dtype::Float32), a.len())).collect();
        let scalars = [Scalar::Int(self.m), Scalar::Int(self.k)];
        let blocks = self.update(self.k) + self.outer(self.k) * self.parts() as i32;
        // SAFETY: as in `inward`
        let mut out = unsafe { self.launch(gpu, Kind::BackIn, &inputs, &outputs, &scalars, blocks) }?.into_iter();
        Some((out.next()?, out.collect()))
    }
}
