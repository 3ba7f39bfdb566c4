// out[m, n] = EPILOGUE( sum_k X[m, k] * W[n, k] ) for few rows of x, weights of any format, each weight read once.
// X = NORM ? rms_norm(x, norm, eps) : x. W is one matrix or PARTS of them, rows on rows, each but the last of a
// multiple of 16 rows: the first `end0` rows lie in parts[0], those up to `end1` in parts[1]. A tile is 16 rows of W
// (GATE: 8 gate rows and the 8 up rows that go with them, two parts of N rows or one of 2N). A block takes tiles block, + blocks, ...; its warps share the columns of a
// tile, U blocks of 128 a step; the weights of the next step are under way while the current ones are used, and the
// first leave before x is staged. Weights go to the tensor cores as A, so up to 8 rows of x cost what one costs.
// MB: 1, 8, 16 or 32 bounds the rows M. SHARED: x lies permuted in shared memory, with `stride` elements a row;
// otherwise it is read where it is. K is a multiple of 32 (U = 2: of
// 128 blocks an even number), any N, any M <= MB.
// NEXT: what the next launch reads first is brought into the L2 cache once a block's tiles are done.
// IDX: W is a stack of experts; grid row y takes x row y / share and expert idx[y], clipped; M = 1.
// Around: rows of x and out may lie apart; with `by`, x goes on its way to `before` first (SHARED only).
enum Gate { NONE, SILU, GELU };
enum Act { SAME, SIGMOID, TANH, SQUARED_RELU };

__device__ __forceinline__ float activated(int act, float a) {
  if (act == SIGMOID) return 1.f / (1.f + __expf(-a));
  if (act == TANH) return tanhf(a);
  if (act == SQUARED_RELU) return a > 0 ? a * a : 0.f;
  return a;
}

// x + (before - x) by, as `token_mix` rounds it.
__device__ __forceinline__ u32 toward(u32 x, u32 before, u32 by) {
  const u32 change = pack(lo(before) - lo(x), hi(before) - hi(x));
  return pack(fmaf(lo(change), lo(by), lo(x)), fmaf(hi(change), hi(by), hi(x)));
}
__device__ __forceinline__ uint4 toward8(uint4 x, uint4 before, uint4 by) {
  return make_uint4(toward(x.x, before.x, by.x), toward(x.y, before.y, by.y), toward(x.z, before.z, by.z), toward(x.w, before.w, by.w));
}

__device__ __forceinline__ float gated(int gate, float a, float b) {
  if (gate == SILU) return a / (1.f + __expf(-a)) * b;
  const float c = 0.7978845608028654f * (a + 0.044715f * a * a * a);
  return 0.5f * a * (1.f + tanhf(c)) * b;
}

struct Part {
  const u8 *w, *scales, *biases;
  const u16* bias;
};

// Which of the grid's blocks this is, how far rows are apart, what else happens to x and to the product.
struct Around {
  int block, blocks, x_row, out_row;
  const u16 *before, *by;
  int act;
};

template <class F, int PARTS, int MB, int NW, int U, bool SHARED, bool NORM, int GATE, bool IDX>
__device__ __forceinline__ void gemv(const u16* x, const u16* norm, Part p0, Part p1, Part p2, const u16* res,
                                     const u32* idx, const u8* next0, const u8* next1, u16* out, int M, int N, int K,
                                     int end0, int end1, int share, int experts, int next_bytes, float eps, Around around) {
  constexpr bool TWIN = GATE && PARTS == 2;  // gate and up apart
  constexpr int NT = NW * 32, TILES = (MB + 7) / 8, C = MB == 1 ? 1 : 8 * TILES, R = GATE ? 8 : 16;
  extern __shared__ __align__(16) u8 smem[];
  const int stride = (K + 127) / 128 * 128 + 32;
  u16* xs = (u16*)smem;
  float* factor = (float*)(smem + (SHARED ? (size_t)M * stride * 2 : 0));  // [MB], and [NW] for one row
  float* part = factor + MB + NW;                                          // [2][NW][16][C]
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, r = lane >> 2, t = lane & 3;
  const int tiles = (N + R - 1) / R, steps = (K + 128 * U - 1) / (128 * U);
  const size_t row_bytes = F::row_bytes(K), scale_bytes = F::scale_bytes(K);
  if (IDX) {
    const size_t rows = min(idx[blockIdx.y], (u32)experts - 1) * (size_t)(GATE && !TWIN ? 2 * N : N);
    auto choose = [&](Part& p) {
      p.w += rows * row_bytes, p.scales += rows * scale_bytes, p.biases += rows * scale_bytes;
      if (p.bias) p.bias += rows;
    };
    choose(p0);
    if (TWIN) choose(p1);
    x += (size_t)(blockIdx.y / share) * K, out += (size_t)blockIdx.y * N;
  }
  F a[U], b[U];
  auto load = [&](int tile, int step) {
    int ra = GATE ? min(tile * 8 + r, N - 1) : min(tile * 16 + r, N - 1);
    int rb = TWIN ? ra : GATE ? ra + N : min(tile * 16 + r + 8, N - 1);
    Part pa = p0, pb = TWIN ? p1 : p0;
    if (!GATE && PARTS > 1) {
      const bool second = tile * 16 >= end0, third = PARTS > 2 && tile * 16 >= end1;
      const int first = third ? end1 : second ? end0 : 0;
      pa = third ? p2 : second ? p1 : p0, pb = pa, ra -= first, rb -= first;
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
      a[u].load(pa.w + ra * row_bytes, pa.scales + ra * scale_bytes, pa.biases + ra * scale_bytes, step * U + u, t, K);
      b[u].load(pb.w + rb * row_bytes, pb.scales + rb * scale_bytes, pb.biases + rb * scale_bytes, step * U + u, t, K);
    }
  };
  if (warp < steps) load(around.block, warp);

  if (SHARED || NORM) {
    // One row: all warps share it; more rows: one warp a row. bf16 defers the norm's factor to the results; f16 could
    // overflow without it, so it takes a second pass.
    const int first = MB == 1 ? tid : lane, by = MB == 1 ? NT : 32, units = stride / 8 - 4;
    for (int m = MB == 1 ? 0 : warp; m < M; m += NW) {
      const uint4* row = (const uint4*)(x + (size_t)m * around.x_row);
      float ss = 0, f = 1;
      if (NORM && HALF) {
        for (int i = first; i < K / 8; i += by) ss += sum_squares(row[i]);
        ss = warp_sum(ss);
        if (MB == 1) {
          if (lane == 0) factor[1 + warp] = ss;
          __syncthreads();
          ss = 0;
          for (int i = 0; i < NW; i++) ss += factor[1 + i];
        }
        f = rsqrtf(ss / K + eps);
        ss = 0;
      }
#pragma unroll 4
      for (int i = first; i < units; i += by) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (i < K / 8) {
          v = row[i];
          if (around.by) v = toward8(v, ((const uint4*)(around.before + (size_t)m * K))[i], ((const uint4*)around.by)[i]);
          if (NORM) {
            if (!HALF) ss += sum_squares(v);
            v = scaled8(v, ((const uint4*)norm)[i], f);
          }
        }
        ((uint4*)(xs + (size_t)m * stride))[F::unit(i)] = F::permute(v);
      }
      if (NORM && !HALF) {
        ss = warp_sum(ss);
        if (MB == 1) {
          if (lane == 0) factor[1 + warp] = ss;
        } else if (lane == 0) {
          factor[m] = rsqrtf(ss / K + eps);
        }
      }
    }
    __syncthreads();
    if (MB == 1 && NORM && !HALF) {
      if (tid == 0) {
        float ss = 0;
        for (int i = 0; i < NW; i++) ss += factor[1 + i];
        factor[0] = rsqrtf(ss / K + eps);
      }  // read after the next barrier
    }
  }

  for (int tile = around.block, it = 0; tile < tiles; tile += around.blocks, it++) {
    float y[TILES][4];
#pragma unroll
    for (int n = 0; n < TILES; n++) y[n][0] = y[n][1] = y[n][2] = y[n][3] = 0;
    for (int step = warp; step < steps; step += NW) {
      F ca[U], cb[U];
#pragma unroll
      for (int u = 0; u < U; u++) ca[u] = a[u], cb[u] = b[u];
      if (step + NW < steps) load(tile, step + NW);
      else if (tile + around.blocks < tiles) load(tile + around.blocks, warp);
#pragma unroll
      for (int u = 0; u < U; u++) {
        const int block = step * U + u;
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const uint4 p = ca[u].pairs(q), s = cb[u].pairs(q);
#pragma unroll
          for (int n = 0; n < TILES; n++) {
            const int m = MB == 1 ? 0 : min(n * 8 + r, M - 1);
            uint4 v;
            if (SHARED) {
              v = *(const uint4*)(xs + (size_t)m * stride + block * 128 + q * 32 + t * 8);
            } else {
              const int column = block * 128 + (F::unit(1) == 1 ? q * 32 + t * 8 : t * 32 + q * 8);
              v = make_uint4(0, 0, 0, 0);
              if (column < K) v = F::permute(*(const uint4*)(x + (size_t)m * around.x_row + column));
            }
            mma(y[n], p.x, s.x, p.y, s.y, v.x, v.y);
            mma(y[n], p.z, s.z, p.w, s.w, v.z, v.w);
          }
        }
      }
    }
    float* mine = part + ((it & 1) * NW + warp) * 16 * C;
    if (MB == 1) {
      if (t == 0) mine[r] = y[0][0], mine[r + 8] = y[0][2];
    } else {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        *(float2*)(mine + r * C + n * 8 + 2 * t) = make_float2(y[n][0], y[n][1]);
        *(float2*)(mine + (r + 8) * C + n * 8 + 2 * t) = make_float2(y[n][2], y[n][3]);
      }
    }
    __syncthreads();
    // The other half of `part` takes the next tile, so one barrier a tile is enough.
    for (int e = MB == 1 ? (tid + NT - (it % NW) * 32) % NT : tid; e < R * M; e += NT) {
      const int row = e % R, m = e / R, n = tile * R + row;
      if (n >= N) continue;
      float s = 0, g = 0;
#pragma unroll
      for (int i = 0; i < NW; i++) {
        const float* p = part + ((it & 1) * NW + i) * 16 * C + m;
        s += p[row * C];
        if (GATE) g += p[(row + 8) * C];
      }
      if (NORM && !HALF) s *= factor[m], g *= factor[m];
      if (p0.bias) {
        const bool second = !GATE && PARTS > 1 && n >= end0, third = !GATE && PARTS > 2 && n >= end1;
        s += widen(third ? p2.bias[n - end1] : second ? p1.bias[n - end0] : p0.bias[n]);
        if (GATE) g += widen(TWIN ? p1.bias[n] : p0.bias[n + N]);
      }
      if (GATE) s = gated(GATE, rounded(s), rounded(g));
      if (around.act) s = activated(around.act, rounded(s));
      const size_t i = (size_t)m * around.out_row + n;
      if (res) s = rounded(s) + widen(res[i]);
      out[i] = narrow(s);
    }
  }
  if (next0) {
    const size_t first = ((size_t)around.block * NT + tid) * 128, by = (size_t)around.blocks * NT * 128;
    for (size_t i = first; i < next_bytes; i += by) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(next0 + i));
      if (next1) asm volatile("prefetch.global.L2 [%0];" ::"l"(next1 + i));
    }
  }
}
