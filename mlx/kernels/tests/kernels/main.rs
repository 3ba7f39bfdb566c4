//! Every kernel on every instruction set of this machine against the plain f64 form, on random shapes with odd tails.

mod attention;
mod fused;
mod products;
mod rows;
mod scans;
mod support;
