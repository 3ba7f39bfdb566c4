// Linear recurrences, token by token: S = S diag(fade) + a write, y = S q, the state S [V, K] of a head in registers.
// State f32 [B, H, V, K], read and written apart. Grid (blocks of 4 NW R rows of V, H, B), NW warps. Eight lanes share a row
// of S, each with 4 numbers of every 32; a thread has R rows. K is a multiple of 4. RULES say where numbers come from.
// AHEAD: four more warps, of one job each, bring the next tokens while the first NW compute.

// T or f32, which the compiler knows where it matters.
struct Numbers {
  const void* x;
  bool wide;
  __device__ __forceinline__ float operator[](size_t i) const { return wide ? ((const float*)x)[i] : widen(((const u16*)x)[i]); }
};

// A few tokens' numbers of one head. READ 0: S += write v k'; 1: what lies under k after the decay is taken out;
// 2: what lies at `at` before it is taken out under `under`.
template <int K, int V_, int NW_, int R_, int T_, int READ_, bool CHANNELS_>
struct Stage {
  static constexpr int KP = (K + 31) / 32 * 32, NI = KP / 32, V = V_, NW = NW_, R = R_, T = T_, READ = READ_, VB = 4 * NW * R;
  static constexpr bool CHANNELS = CHANNELS_;
  __align__(16) float q[T][KP], k[T][KP], at[READ == 2 ? T : 1][READ == 2 ? KP : 4], under[READ == 2 ? T : 1][READ == 2 ? KP : 4];
  __align__(16) float fade[T][CHANNELS ? KP : 4];
  float v[T][VB], y[T][VB], write[T], extra[T];
};

__device__ __forceinline__ float dot(float4 a, float4 b, float y) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, y))));
}
__device__ __forceinline__ float4 times(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ __forceinline__ float4 plus(float4 a, float f, float4 b) {
  return make_float4(fmaf(f, b.x, a.x), fmaf(f, b.y, a.y), fmaf(f, b.z, a.z), fmaf(f, b.w, a.w));
}
// Over the eight lanes of a row.
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
  for (int o = 4; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}

template <class M>
__device__ __forceinline__ void step(float4 (&s)[M::R][M::NI], const M& m, int n, int lane, int row, float (&y)[M::R]) {
  constexpr int R = M::R, NI = M::NI, ROWS = 4 * M::NW;
  const int c = (lane & 7) * 4;
  const float f = m.fade[n][0];
  float seen[R];
#pragma unroll
  for (int r = 0; r < R; r++) seen[r] = 0;
#pragma unroll
  for (int i = 0; i < NI; i++) {
    const float4 fade = M::CHANNELS ? *(const float4*)&m.fade[n][c + 32 * i] : make_float4(f, f, f, f);
    const float4 at = M::READ == 2 ? *(const float4*)&m.at[n][c + 32 * i] : *(const float4*)&m.k[n][c + 32 * i];
#pragma unroll
    for (int r = 0; r < R; r++) {
      if (M::READ == 2) seen[r] = dot(s[r][i], at, seen[r]);
      s[r][i] = times(s[r][i], fade);
      if (M::READ == 1) seen[r] = dot(s[r][i], at, seen[r]);
    }
  }
  float write[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    if (M::READ) seen[r] = row_sum(seen[r]);
    const float v = m.v[n][row + r * ROWS];
    write[r] = M::READ == 1 ? m.write[n] * (v - seen[r]) : M::READ == 2 ? v : m.write[n] * v;
    y[r] = 0;
  }
#pragma unroll
  for (int i = 0; i < NI; i++) {
    const float4 k = *(const float4*)&m.k[n][c + 32 * i], q = *(const float4*)&m.q[n][c + 32 * i];
#pragma unroll
    for (int r = 0; r < R; r++) {
      s[r][i] = plus(s[r][i], write[r], k);
      if (M::READ == 2) s[r][i] = plus(s[r][i], -seen[r], *(const float4*)&m.under[n][c + 32 * i]);
      y[r] = dot(s[r][i], q, y[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++) y[r] = row_sum(y[r]);
}

// What job WHICH of all T tokens from t on gives; loads of all tokens are under way at once, those past the end are of the
// last one.
template <int WHICH, class RULE>
__device__ __forceinline__ void stage_all(const RULE& rule, typename RULE::M& m, int b, int h, int t, int L, int first, int lane) {
#pragma unroll
  for (int n = 0; n < RULE::M::T; n++) rule.stage(m, WHICH, n, b, h, min(t + n, L - 1), L, first, lane);
}
template <class RULE>
__device__ __forceinline__ void stage_by(int which, const RULE& rule, typename RULE::M& m, int b, int h, int t, int L, int first,
                                         int lane) {
  if (which == 0) stage_all<0>(rule, m, b, h, t, L, first, lane);
  else if (which == 1) stage_all<1>(rule, m, b, h, t, L, first, lane);
  else if (which == 2) stage_all<2>(rule, m, b, h, t, L, first, lane);
  else stage_all<3>(rule, m, b, h, t, L, first, lane);
}

// RULE fills a stage (`stage`, four jobs a token, one warp each), writes what a row gives (`put`) or a head (`finish`),
// and keeps the tails.
template <class RULE>
__device__ __forceinline__ void recurrent(const RULE& rule, const float* state, float* next, int L) {
  using M = typename RULE::M;
  constexpr int R = M::R, NI = M::NI, NW = M::NW, T = M::T, V = M::V, K = RULE::K;
  constexpr bool AHEAD = RULE::AHEAD;
  __shared__ M stages[AHEAD ? 2 : 1];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = warp * 4 + (lane >> 3), c = (lane & 7) * 4;
  const int h = blockIdx.y, b = blockIdx.z, first = blockIdx.x * M::VB;
  const size_t head = ((size_t)b * gridDim.y + h) * V * K;
  float4 s[R][NI];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < NI; i++) {
      const int v = first + row + r * 4 * NW, k = c + 32 * i;
      s[r][i] = make_float4(0, 0, 0, 0);
      if (warp < NW && v < V && k < K) s[r][i] = *(const float4*)(state + head + (size_t)v * K + k);
    }
  if (AHEAD) {
    if (warp >= NW) stage_by(warp - NW, rule, stages[0], b, h, 0, L, first, lane);
    __syncthreads();
  }
  for (int t = 0; t < L; t += T) {
    const int count = min(T, L - t);
    M& m = stages[AHEAD ? t / T & 1 : 0];
    if (!AHEAD) {
      for (int job = warp; job < 4 * count; job += NW) rule.stage(m, job / count, job % count, b, h, t + job % count, L, first, lane);
      __syncthreads();
    } else if (warp >= NW && t + T < L) {
      stage_by(warp - NW, rule, stages[(t / T & 1) ^ 1], b, h, t + T, L, first, lane);
    }
#pragma unroll 1
    for (int n = 0; n < (warp < NW ? count : 0); n++) {
      float y[R];
      step(s, m, n, lane, row, y);
      if ((lane & 7) == 0) {
#pragma unroll
        for (int r = 0; r < R; r++) {
          const int v = row + r * 4 * NW;
          if (RULE::WHOLE) m.y[n][v] = y[r];
          else if (first + v < V) rule.put(m, n, y[r], b, h, t + n, L, first, v);
        }
      }
    }
    __syncthreads();
    if (RULE::WHOLE) {
      for (int n = warp; n < count; n += NW) rule.finish(m, n, b, h, t + n, L, lane);
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < NI; i++) {
      const int v = first + row + r * 4 * NW, k = c + 32 * i;
      if (warp < NW && v < V && k < K) *(float4*)(next + head + (size_t)v * K + k) = s[r][i];
    }
  rule.tails(b, h, L, first);
}

// The scan between arrays [B, L, its heads, ..]: head h of H reads head h / (H / its own). fade is e^g, a number a head or
// one a channel of k; `beta` with x null is 1. out f32 [B, L, H, V].
struct Source {
  Numbers x;
  int heads;
  __device__ __forceinline__ size_t row(size_t token, int h) const { return token * heads + h / (gridDim.y / heads); }
};

template <int K_, class M_>
struct Scan {
  using M = M_;
  static constexpr int K = K_, V = M::V;
  static constexpr bool WHOLE = false, AHEAD = true;
  Source q, k, v, g, beta, at, under;
  float* out;

  __device__ __forceinline__ void columns(float* to, const Source& s, size_t token, int h, int lane) const {
    const size_t row = s.row(token, h) * K;
#pragma unroll
    for (int i = 0; i < M::NI; i++) to[lane + 32 * i] = lane + 32 * i < K ? s.x[row + lane + 32 * i] : 0.f;
  }
  __device__ __forceinline__ void stage(M& m, int which, int n, int b, int h, int t, int L, int first, int lane) const {
    const size_t token = (size_t)b * L + t;
    if (which == 0) {
      columns(m.q[n], q, token, h, lane);
    } else if (which == 1) {
      columns(m.k[n], k, token, h, lane);
      if (M::READ == 2) columns(m.at[n], at, token, h, lane);
    } else if (which == 2) {
      const size_t row = v.row(token, h) * V;
      for (int i = lane; i < M::VB; i += 32) m.v[n][i] = first + i < V ? v.x[row + first + i] : 0.f;
    } else {
      if (M::READ == 2) columns(m.under[n], under, token, h, lane);
      const size_t row = g.row(token, h);
      if (M::CHANNELS) {
        for (int c = lane; c < M::KP; c += 32) m.fade[n][c] = c < K ? expf(g.x[row * K + c]) : 1.f;
      } else if (lane == 0) {
        m.fade[n][0] = expf(g.x[row]);
      }
      if (lane == 0) m.write[n] = beta.x.x ? beta.x[beta.row(token, h)] : 1.f;
    }
  }
  __device__ __forceinline__ void put(M&, int, float y, int b, int h, int t, int L, int first, int row) const {
    out[(((size_t)b * L + t) * gridDim.y + h) * V + first + row] = y;
  }
  __device__ __forceinline__ void finish(M&, int, int, int, int, int, int) const {}
  __device__ __forceinline__ void tails(int, int, int, int) const {}
};

// Mamba, a state of N numbers a channel: S = e^(dt a) S + dt u b, y = sum(S c) + skip u. u, dt [B, L, D], a, state [B,] D, N;
// b, c [B, L, N]; out f32. PER lanes share a channel. Grid (blocks of 128 / PER channels, B), 128 threads.
template <int N, int PER, int T>
__device__ __forceinline__ void selective(Numbers u, Numbers dt, Numbers a, Numbers b, Numbers c, Numbers skip, const float* state,
                                          float* out, float* next, int L, int D) {
  constexpr int C = 128 / PER, E = (N + PER - 1) / PER;
  __shared__ float bs[T][N], cs[T][N];
  const int tid = threadIdx.x, j = tid % PER, d = blockIdx.x * C + tid / PER, row = blockIdx.y;
  const bool mine = d < D;
  float s[E], rate[E];
#pragma unroll
  for (int e = 0; e < E; e++) {
    const int n = j + e * PER;
    s[e] = rate[e] = 0;
    if (mine && n < N) s[e] = state[((size_t)row * D + d) * N + n], rate[e] = a[(size_t)d * N + n];
  }
  const float straight = mine ? skip[d] : 0.f;
  const int column = mine ? d : 0;
  for (int t = 0; t < L; t += T) {
    const int count = min(T, L - t);
    const size_t token = (size_t)row * L + t;
    float x[T], step[T];
#pragma unroll
    for (int n = 0; n < T; n++) {
      const size_t at = (token + min(n, count - 1)) * D + column;
      x[n] = u[at], step[n] = dt[at];
    }
    for (int i = tid; i < count * N; i += 128) bs[i / N][i % N] = b[token * N + i], cs[i / N][i % N] = c[token * N + i];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < T; n++) {
      if (n >= count) break;
      float y = 0;
#pragma unroll
      for (int e = 0; e < E; e++) {
        const int i = j + e * PER;
        if (i >= N) continue;
        s[e] = expf(step[n] * rate[e]) * s[e] + step[n] * x[n] * bs[n][i];
        y = fmaf(s[e], cs[n][i], y);
      }
#pragma unroll
      for (int o = PER / 2; o; o >>= 1) y += __shfl_xor_sync(~0u, y, o);
      if (mine && j == 0) out[(token + n) * D + d] = y + straight * x[n];
    }
    __syncthreads();
  }
#pragma unroll
  for (int e = 0; e < E; e++)
    if (mine && j + e * PER < N) next[((size_t)row * D + d) * N + j + e * PER] = s[e];
}
