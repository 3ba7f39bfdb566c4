//! Launch of one update of Adam (`adam.cuh`).

use super::kernel::{Launch, Scalar};
use super::{ADAM, Gpu, Spec, Table, kernel};
use crate::fast::adam::AdamStep;
use crate::{Array, Dtype};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Adam {
    corrected: bool,
}

impl Spec for Adam {
    fn name(&self) -> String {
        format!("adam_{}", self.corrected as u8)
    }

    fn source(&self, name: &str) -> String {
        format!(
            "{ADAM}\nextern \"C\" __global__ void {name}(const float* g, const float* p, const float* m, const float* v, \
             const float* rate, const float* factor, const float* second, float* p_out, float* m_out, float* v_out, \
             int n, float b1, float new1, float b2, float new2, float eps, float decay) {{\nadam<{}>(g, p, m, v, rate, factor, second, p_out, \
             m_out, v_out, n, b1, new1, b2, new2, eps, decay);\n}}\n",
            self.corrected
        )
    }
}

thread_local! { static KERNELS: Table<Adam> = Table::default(); }

/// The new p, m and v; arrays were checked by the caller.
pub(crate) fn adam(gpu: &Gpu, [g, p, m, v]: [&Array; 4], a: &AdamStep<'_>) -> Option<[Array; 3]> {
    let n = i32::try_from(p.size()).ok().filter(|&n| n > 0)?;
    let kernel = kernel(&KERNELS, Adam { corrected: a.corrections.is_some() }, gpu)?;
    let (factor, second) = a.corrections.unwrap_or((a.rate, a.rate));
    let [b1, b2] = a.betas;
    let numbers = [b1, 1.0 - b1, b2, 1.0 - b2].map(|x| Scalar::Float(x as f32));
    let scalars = [&[Scalar::Int(n)][..], &numbers, &[Scalar::Float(a.eps), Scalar::Float(a.decay)]].concat();
    let blocks = ((n - 1) / 256 + 1).min(gpu.multiprocessors * 8);
    let launch = Launch { grid: [blocks, 1, 1], threads: 256, shared: 0 };
    let outputs = [(p.shape(), Dtype::Float32); 3];
    // SAFETY: all arrays but the three scalars have n numbers, which the loop stays within
    unsafe { kernel.call(&[g, p, m, v, a.rate, factor, second], &outputs, &scalars, launch) }.try_into().ok()
}
