// Recurrent layers between their input projections and their output's gate or norm, as rules for `recurrent`: the short
// convolution with SiLU, unit length, decays and steps are computed while a token's numbers are staged, and the norm and
// gate behind it where a block holds a whole head. `Delta` is the gated delta rule, `Space` mamba-2, `Wkv` rwkv-7.

__device__ __forceinline__ float sigmoid(float v) { return 1.f / (1.f + expf(-v)); }
__device__ __forceinline__ float softplus(float v) { return fmaxf(v, 0.f) + log1pf(expf(-fabsf(v))); }

// Where the numbers of head h lie in a row of an array.
struct Rows {
  const u16* x;
  int row, head, at;
  __device__ __forceinline__ const u16* of(size_t token, int h) const { return x + token * row + at + h * head; }
};

// The short causal convolution in front: weight [C, TAPS], the last TAPS - 1 inputs [B, TAPS - 1, C] before and after.
struct Conv {
  const u16 *weight, *bias, *tail;
  u16* out;
  int width;
};

// Number i of head h at token t, convolved as channel `channel` and through SiLU.
template <int TAPS>
__device__ __forceinline__ float input(const Rows& r, const Conv& c, int b, int t, int L, int h, int i, int channel) {
  float y = c.bias ? widen(c.bias[channel]) : 0.f;
#pragma unroll
  for (int j = 0; j < TAPS; j++) {
    const int p = t - TAPS + 1 + j;
    const u16 x = p >= 0 ? r.of((size_t)b * L + p, h)[i] : c.tail[((size_t)b * (TAPS - 1) + TAPS - 1 + p) * c.width + channel];
    y += widen(c.weight[channel * TAPS + j]) * widen(x);
  }
  return y * sigmoid(y);
}

// The inputs that the next call starts behind, of `count` channels from `channel` on: numbers `from`.. of head h.
template <int TAPS>
__device__ __forceinline__ void keep(const Rows& r, const Conv& c, int b, int L, int h, int from, int count, int channel) {
  for (int e = threadIdx.x; e < count * (TAPS - 1); e += blockDim.x) {
    const int i = e % count, n = e / count, p = L - (TAPS - 1) + n;
    const size_t at = (size_t)b * (TAPS - 1);
    c.out[(at + n) * c.width + channel + i] =
        p >= 0 ? r.of((size_t)b * L + p, h)[from + i] : c.tail[(at + TAPS - 1 + p) * c.width + channel + i];
  }
}

// S = e^g S, then S += beta (v - S k) k', with q and k of unit length and q over sqrt(K). PER value heads share a key head;
// DECAY 0: e^(-e^a_log softplus(a + dt_bias)), 1: e^(bound sigmoid(e^a_log (a + dt_bias))), a number a head or a channel of
// k. beta = reach sigmoid(b). Rows of z, v count value heads by key head. AFTER 1: rms_norm(y) weight;
// 2: that times silu(z); 3: times sigmoid(z). A block has a whole head. out T [B, L, H, V].
template <int K_, int PER, int TAPS, int DECAY, int AFTER, class M_>
struct Delta {
  using M = M_;
  static constexpr int K = K_, V = M::V;
  static constexpr bool WHOLE = true, AHEAD = false;
  Rows q, k, v, a, beta, z;
  Conv qc, kc, vc;
  int q_channel, k_channel, v_channel;
  Numbers a_log;
  Numbers dt_bias;
  const u16* norm;
  u16* out;
  float bound, reach, eps;

  __device__ __forceinline__ void stage(M& m, int which, int n, int b, int h, int t, int L, int first, int lane) const {
    const int hk = h / PER, sub = h % PER;
    const size_t token = (size_t)b * L + t;
    if (which < 2) {
      float x[M::NI], ss = 0;
#pragma unroll
      for (int i = 0; i < M::NI; i++) {
        const int c = lane + 32 * i;
        x[i] = 0;
        if (c < K) x[i] = which ? input<TAPS>(k, kc, b, t, L, hk, c, k_channel + hk * K + c) : input<TAPS>(q, qc, b, t, L, hk, c, q_channel + hk * K + c);
        ss += x[i] * x[i];
      }
      const float f = rsqrtf(warp_sum(ss) + 1e-6f) * (which ? 1.f : rsqrtf((float)K));
#pragma unroll
      for (int i = 0; i < M::NI; i++) (which ? m.k : m.q)[n][lane + 32 * i] = x[i] * f;
    } else if (which == 2) {
      for (int i = lane; i < M::VB; i += 32) {
        const int c = sub * V + first + i;
        m.v[n][i] = first + i < V ? input<TAPS>(v, vc, b, t, L, hk, c, v_channel + hk * PER * V + c) : 0.f;
      }
    } else {
      const float rate = expf(a_log[h]);
      auto fade = [&](float x) { return expf(DECAY ? bound * sigmoid(rate * x) : -rate * softplus(x)); };
      if (M::CHANNELS) {
        for (int c = lane; c < M::KP; c += 32)
          m.fade[n][c] = c < K ? fade(widen(a.of(token, h)[c]) + dt_bias[h * K + c]) : 1.f;
      } else if (lane == 0) {
        m.fade[n][0] = fade(widen(a.of(token, hk)[sub]) + dt_bias[h]);
      }
      if (lane == 0) m.write[n] = reach * sigmoid(widen(beta.of(token, hk)[sub]));
    }
  }
  __device__ __forceinline__ void put(M&, int, float, int, int, int, int, int, int) const {}
  __device__ __forceinline__ void finish(M& m, int n, int b, int h, int t, int L, int lane) const {
    const size_t token = (size_t)b * L + t;
    float ss = 0;
    for (int i = lane; i < V; i += 32) ss += m.y[n][i] * m.y[n][i];
    const float f = rsqrtf(warp_sum(ss) / V + eps);
    for (int i = lane; i < V; i += 32) {
      float y = rounded(m.y[n][i] * f * widen(norm[i]));
      if (AFTER > 1) {
        const float g = widen(z.of(token, h / PER)[h % PER * V + i]);
        y *= AFTER == 2 ? g * sigmoid(g) : sigmoid(g);
      }
      out[(token * gridDim.y + h) * V + i] = narrow(y);
    }
  }
  __device__ __forceinline__ void tails(int b, int h, int L, int first) const {
    const int hk = h / PER, sub = h % PER;
    if (blockIdx.x == 0 && sub == 0) {
      keep<TAPS>(q, qc, b, L, hk, 0, K, q_channel + hk * K);
      keep<TAPS>(k, kc, b, L, hk, 0, K, k_channel + hk * K);
    }
    const int from = sub * V + first;
    keep<TAPS>(v, vc, b, L, hk, from, min(M::VB, V - first), v_channel + hk * PER * V + from);
  }
};

// S = e^(dt A) S + (dt u) B', y = S C + D u with dt = softplus(dt + bias) within bounds, A = -e^a_log. Head h uses B and C of
// group h / PER. `skip` has a number a head, or (SKIP 2) a channel. out T [B, L, H V].
template <int K_, int PER, int TAPS, int SKIP, class M_>
struct Space {
  using M = M_;
  static constexpr int K = K_, V = M::V;
  static constexpr bool WHOLE = false, AHEAD = false;
  Rows u, key, query, dt;
  Conv conv;
  int u_channel, key_channel, query_channel;
  Numbers a_log;
  Numbers dt_bias;
  Numbers skip;
  u16* out;
  float low, high;

  __device__ __forceinline__ void stage(M& m, int which, int n, int b, int h, int t, int L, int first, int lane) const {
    const int g = h / PER;
    if (which < 2) {
#pragma unroll
      for (int i = 0; i < M::NI; i++) {
        const int c = lane + 32 * i;
        float x = 0;
        if (c < K) x = which ? input<TAPS>(key, conv, b, t, L, g, c, key_channel + g * K + c) : input<TAPS>(query, conv, b, t, L, g, c, query_channel + g * K + c);
        (which ? m.k : m.q)[n][c] = x;
      }
    } else if (which == 2) {
      for (int i = lane; i < M::VB; i += 32)
        m.v[n][i] = first + i < V ? input<TAPS>(u, conv, b, t, L, h, first + i, u_channel + h * V + first + i) : 0.f;
    } else if (lane == 0) {
      float d = widen(dt.of((size_t)b * L + t, h)[0]);
      if (dt_bias.x) d += dt_bias[h];
      d = fminf(fmaxf(softplus(d), low), high);
      m.write[n] = d;
      m.fade[n][0] = expf(-d * expf(a_log[h]));
    }
  }
  __device__ __forceinline__ void put(M& m, int n, float y, int b, int h, int t, int L, int first, int row) const {
    if (SKIP) y += skip[SKIP == 2 ? h * V + first + row : h] * m.v[n][row];
    out[(((size_t)b * L + t) * gridDim.y + h) * V + first + row] = narrow(y);
  }
  __device__ __forceinline__ void finish(M&, int, int, int, int, int, int) const {}
  __device__ __forceinline__ void tails(int b, int h, int L, int first) const {
    const int g = h / PER;
    if (blockIdx.x == 0 && h % PER == 0) {
      keep<TAPS>(key, conv, b, L, g, 0, K, key_channel + g * K);
      keep<TAPS>(query, conv, b, L, g, 0, K, query_channel + g * K);
    }
    keep<TAPS>(u, conv, b, L, h, first, min(M::VB, V - first), u_channel + h * V + first);
  }
};

// S = S diag(w) - (S kk) (kk a)' + v k', y = S r; w = e^(-e^(-1/2) sigmoid(decay)), a = sigmoid(rate), kk = unit(k k_k),
// k (1 + (a - 1) k_a). UNIT 0: over max(|x|, small), 1: over sqrt(|x|^2 + small). Then the norm of each head with weight
// and bias, + (r k r_k) v, times gate. MIX: v is on its way to `first`, by sigmoid(share). A block has a whole head.
// Rows of T, parameters [H, K or V], out [B, L, H V].
template <int K_, int UNIT, bool MIX, class M_>
struct Wkv {
  using M = M_;
  static constexpr int K = K_, V = M::V;
  static constexpr bool WHOLE = true, AHEAD = false;
  Rows r, k, v, rate, decay, gate, start, share;
  const u16 *k_k, *k_a, *r_k, *weight, *bias;
  u16* out;
  float small, eps;

  __device__ __forceinline__ void stage(M& m, int which, int n, int b, int h, int t, int L, int, int lane) const {
    const size_t token = (size_t)b * L + t;
    const u16* rs = r.of(token, h);
    if (which == 0) {
#pragma unroll
      for (int i = 0; i < M::NI; i++) m.q[n][lane + 32 * i] = lane + 32 * i < K ? widen(rs[lane + 32 * i]) : 0.f;
    } else if (which == 1) {
      const u16 *ks = k.of(token, h), *rates = rate.of(token, h);
      float key[M::NI], removed[M::NI], a[M::NI], ss = 0, bonus = 0;
#pragma unroll
      for (int i = 0; i < M::NI; i++) {
        const int c = lane + 32 * i;
        key[i] = removed[i] = a[i] = 0;
        if (c >= K) continue;
        const float x = widen(ks[c]);
        a[i] = sigmoid(widen(rates[c]));
        removed[i] = x * widen(k_k[h * K + c]);
        key[i] = x + x * (a[i] - 1.f) * widen(k_a[h * K + c]);
        ss += removed[i] * removed[i];
        bonus += widen(rs[c]) * key[i] * widen(r_k[h * K + c]);
      }
      ss = warp_sum(ss), bonus = warp_sum(bonus);
      const float f = UNIT ? rsqrtf(ss + small) : 1.f / fmaxf(sqrtf(ss), small);
#pragma unroll
      for (int i = 0; i < M::NI; i++) {
        const int c = lane + 32 * i;
        m.k[n][c] = key[i], m.at[n][c] = removed[i] * f, m.under[n][c] = removed[i] * f * a[i];
      }
      if (lane == 0) m.extra[n] = bonus;
    } else if (which == 2) {
      const u16* vs = v.of(token, h);
      for (int i = lane; i < M::VB; i += 32) {
        float x = i < V ? widen(vs[i]) : 0.f;
        if (MIX && i < V) x += (widen(start.of(token, h)[i]) - x) * sigmoid(widen(share.of(token, h)[i]));
        m.v[n][i] = x;
      }
    } else {
      const u16* decays = decay.of(token, h);
#pragma unroll
      for (int i = 0; i < M::NI; i++)
        m.fade[n][lane + 32 * i] = lane + 32 * i < K ? expf(-0.60653066f * sigmoid(widen(decays[lane + 32 * i]))) : 1.f;
    }
  }
  __device__ __forceinline__ void put(M&, int, float, int, int, int, int, int, int) const {}
  __device__ __forceinline__ void finish(M& m, int n, int b, int h, int t, int L, int lane) const {
    const size_t token = (size_t)b * L + t, at = (token * gridDim.y + h) * V;
    const u16* gates = gate.of(token, h);
    float sum = 0, ss = 0;
    for (int i = lane; i < V; i += 32) sum += m.y[n][i];
    const float mean = warp_sum(sum) / V;
    for (int i = lane; i < V; i += 32) ss += (m.y[n][i] - mean) * (m.y[n][i] - mean);
    const float f = rsqrtf(warp_sum(ss) / V + eps);
    for (int i = lane; i < V; i += 32) {
      const float y = (m.y[n][i] - mean) * f * widen(weight[h * V + i]) + widen(bias[h * V + i]);
      out[at + i] = narrow((y + m.extra[n] * m.v[n][i]) * widen(gates[i]));
    }
  }
  __device__ __forceinline__ void tails(int, int, int, int) const {}
};

// rms_norm(y silu(z)) weight (FIRST), or rms_norm(y) weight silu(z), over the `width` numbers of each group. y, out T
// [rows, groups width], weight [groups width]. Grid (groups, rows), 256 threads.
template <bool FIRST>
__device__ __forceinline__ void gated_norm(const u16* y, Rows z, const u16* weight, u16* out, int width, float eps) {
  __shared__ float part[8];
  const int tid = threadIdx.x, g = blockIdx.x;
  const size_t at = ((size_t)blockIdx.y * gridDim.x + g) * width;
  const u16* gate = z.of(blockIdx.y, g);
  auto number = [&](int i) {
    const float v = widen(y[at + i]), s = widen(gate[i]);
    return FIRST ? v * s * sigmoid(s) : v;
  };
  float ss = 0;
  for (int i = tid; i < width; i += 256) {
    const float v = number(i);
    ss += v * v;
  }
  ss = warp_sum(ss);
  if ((tid & 31) == 0) part[tid >> 5] = ss;
  __syncthreads();
  ss = 0;
  for (int i = 0; i < 8; i++) ss += part[i];
  const float f = rsqrtf(ss / width + eps);
  for (int i = tid; i < width; i += 256) {
    float v = number(i) * f * widen(weight[g * width + i]);
    if (!FIRST) v = rounded(v) * widen(gate[i]) * sigmoid(widen(gate[i]));
    out[at + i] = narrow(v);
  }
}

// Each token x [B, L, D] on its way to the one before it: out[i] = x + (previous - x) by[i], and the last token. `before`
// [B, 1, D] precedes the first. Grid (blocks of 256 numbers, L, B).
template <int N>
__device__ __forceinline__ void token_mix(const u16* x, const u16* before, const u16* const (&by)[N], u16* const (&out)[N],
                                          u16* last, int D) {
  const int d = blockIdx.x * 256 + threadIdx.x, t = blockIdx.y, L = gridDim.y, b = blockIdx.z;
  if (d >= D) return;
  const size_t at = ((size_t)b * L + t) * D + d;
  const float v = widen(x[at]), change = rounded(widen(t ? x[at - D] : before[(size_t)b * D + d]) - v);
#pragma unroll
  for (int i = 0; i < N; i++) out[i][at] = narrow(fmaf(change, widen(by[i][d]), v));
  if (t == L - 1) last[(size_t)b * D + d] = x[at];
}
