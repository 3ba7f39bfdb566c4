//! The batch order of Python mlx-lm: `numpy.random.permutation` after `numpy.random.seed` (MT19937, Matsumoto and
//! Nishimura 1998).

const N: usize = 624;

/// Numpy's legacy generator, as far as permutations need it. Cloneable, so that a checkpoint can carry it.
#[derive(Debug, Clone)]
pub struct Shuffle {
    state: Vec<u32>,
    at: usize,
}

impl Shuffle {
    pub fn new(seed: u32) -> Self {
        let mut state = vec![seed];
        for i in 1..N as u32 {
            let last = state[i as usize - 1];
            state.push(1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i));
        }
        Shuffle { state, at: N }
    }

    fn next(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % N] ^ (y >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number in 0..=max, by masked rejection.
    fn interval(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let v = self.next() & mask;
            if v <= max {
                return v;
            }
        }
    }

    /// A permutation of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.interval(i as u32) as usize;
            order.swap(i, j);
        }
        order
    }
}
