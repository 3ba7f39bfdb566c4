//! Dropout: active while training, which a new layer is.

use super::module::{Module, Param, Path};
use crate::error::refuse;
use crate::{Array, random};

/// Zeroes elements with probability `p` and scales the others by 1 / (1 - p).
#[track_caller]
pub(super) fn dropout(x: &Array, p: f64, mask_shape: &[i32]) -> Array {
    if p == 0.0 {
        return x.clone();
    }
    if !(0.0..1.0).contains(&p) {
        refuse("dropout", format!("the probability {p} is not in [0, 1)"));
    }
    let keep = 1.0 - p;
    random::bernoulli(keep, Some(mask_shape.into()), None) * x * (1.0 / keep)
}

macro_rules! dropouts {
    ($($(#[$doc:meta])* $name:ident, $spatial:literal, $ranks:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            /// Probability that an element is dropped.
            pub p: f64,
            pub training: bool,
        }

        impl $name {
            pub fn new(p: f64) -> Self {
                $name { p, training: true }
            }

            #[track_caller]
            pub fn forward(&self, x: &Array) -> Array {
                if $spatial > 0 && !$ranks.contains(&x.ndim()) {
                    refuse(stringify!($name), format!("the input has shape {:?}", x.shape()));
                }
                if !self.training {
                    return x.clone();
                }
                let mut shape = x.shape().to_vec();
                let n = shape.len();
                // one draw for a whole channel
                (0..$spatial).for_each(|i| shape[n - 2 - i] = 1);
                dropout(x, self.p, &shape)
            }
        }

        impl Module for $name {
            fn visit(&self, _: &mut Path, _: &mut dyn FnMut(&str, &Param)) {}
            fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&str, &mut Param)) {}
            fn set_training(&mut self, on: bool) {
                self.training = on;
            }
            fn modules(&self, path: &mut Path, f: &mut dyn FnMut(&str)) {
                f(path.as_str());
            }
        }
    )* };
}

dropouts! {
    /// Drops elements (`nn.Dropout`).
    Dropout, 0, [0; 0];
    /// Drops whole channels of [N, H, W, C] or [H, W, C] (`nn.Dropout2d`).
    Dropout2d, 2, [3, 4];
    /// Drops whole channels of [N, D, H, W, C] or [D, H, W, C] (`nn.Dropout3d`).
    Dropout3d, 3, [4, 5];
}
