// Low-rank updates x a b of products and their gradients: x [m, k] and y [m, n] in T, factors a [k, R], b [R, n] in f32.
// P products share one x; h [m, P * R] holds the x a of all of them. Three functions, each the work of one block of 512
// threads, out of which the entries are put together. ACROSS: a factor w is stored [R, width], else [width, R].
#define THREADS 512
#define WARPS 16
#define ROWS_IN 4
#define ROWS_OUT 8
#define COLUMNS_IN 64

__device__ __forceinline__ void read4(float* to, const float* from) {
  const float4 v = *(const float4*)from;
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// h[m, c] = scale * sum over i of x[m, i] w(i, c): ROWS_IN rows, C of a part's R columns. `stride`: a row of h.
template <int R, int C, bool ACROSS>
__device__ __forceinline__ void narrow_product(const u16* x, const float* w, float* h, int m, int k, int stride, float scale,
                                               int block, float* shared) {
  const int row0 = block / (R / C) * ROWS_IN, c0 = block % (R / C) * C;
  float sum[ROWS_IN][C] = {};
  for (int i = 2 * threadIdx.x; i < k; i += 2 * THREADS) {
    float w0[C], w1[C];
    if (ACROSS) {
#pragma unroll
      for (int c = 0; c < C; c++) {
        const float2 v = *(const float2*)(w + (size_t)(c0 + c) * k + i);
        w0[c] = v.x, w1[c] = v.y;
      }
    } else {
#pragma unroll
      for (int c = 0; c < C; c += 4) {
        read4(w0 + c, w + (size_t)i * R + c0 + c);
        read4(w1 + c, w + (size_t)(i + 1) * R + c0 + c);
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS_IN; r++) {
      const u32 v = row0 + r < m ? *(const u32*)(x + (size_t)(row0 + r) * k + i) : 0;
#pragma unroll
      for (int c = 0; c < C; c++) sum[r][c] += lo(v) * w0[c] + hi(v) * w1[c];
    }
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < ROWS_IN; r++)
#pragma unroll
    for (int c = 0; c < C; c++) {
      const float s = warp_sum(sum[r][c]);
      if (lane == 0) shared[warp * ROWS_IN * C + r * C + c] = s;
    }
  __syncthreads();
  const int r = threadIdx.x / C, c = threadIdx.x % C;
  if (r < ROWS_IN && row0 + r < m) {
    float s = 0.f;
    for (int i = 0; i < WARPS; i++) s += shared[i * ROWS_IN * C + threadIdx.x];
    h[(size_t)(row0 + r) * stride + c0 + c] = scale * s;
  }
}

// g(c, j) = scale * sum over m of h[m, c] y[m, j]: COLUMNS_IN columns of y, C of a part's R ranks.
template <int R, int C, bool ACROSS>
__device__ __forceinline__ void outer_sum(const float* h, const u16* y, float* g, int m, int n, int stride, float scale,
                                          int block, float* shared) {
  const int j0 = block / (R / C) * COLUMNS_IN, c0 = block % (R / C) * C;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, j = j0 + 2 * lane;
  float sum[C][2] = {};
  if (j < n)
    for (int row = warp; row < m; row += WARPS) {
      const u32 v = *(const u32*)(y + (size_t)row * n + j);
      float f[C];
#pragma unroll
      for (int c = 0; c < C; c += 4) read4(f + c, h + (size_t)row * stride + c0 + c);
#pragma unroll
      for (int c = 0; c < C; c++) sum[c][0] += f[c] * lo(v), sum[c][1] += f[c] * hi(v);
    }
  for (int q = 0; q < C; q += 4) {
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 4; c++) {
      float* s = shared + (warp * 4 + c) * COLUMNS_IN + 2 * lane;
      s[0] = sum[q + c][0], s[1] = sum[q + c][1];
    }
    __syncthreads();
    const int c = threadIdx.x / COLUMNS_IN, at = j0 + threadIdx.x % COLUMNS_IN;
    if (c < 4 && at < n) {
      float s = 0.f;
      for (int i = 0; i < WARPS; i++) s += shared[i * 4 * COLUMNS_IN + threadIdx.x];
      g[ACROSS ? (size_t)(c0 + q + c) * n + at : (size_t)at * R + c0 + q + c] = scale * s;
    }
  }
}

// out[m, j] = base[m, j] + scale * sum over parts p and ranks c of h[m, p * R + c] w_p(c, j), rounded once: ROWS_OUT rows,
// two columns a thread.
template <int P, int R, bool ACROSS>
__device__ __forceinline__ void wide_update(const u16* base, const float* h, const float* const (&w)[P], u16* out, int m,
                                            int n, int stride, float scale, int block) {
  const int across = (n + 2 * THREADS - 1) / (2 * THREADS);
  const int j = block % across * 2 * THREADS + 2 * threadIdx.x, row0 = block / across * ROWS_OUT;
  if (j >= n) return;
  float sum[ROWS_OUT][2] = {};
#pragma unroll
  for (int p = 0; p < P; p++) {
    float w0[R], w1[R];
#pragma unroll
    for (int c = 0; c < R; c += 4) {
      if (ACROSS) {
#pragma unroll
        for (int d = c; d < c + 4; d++) {
          const float2 v = *(const float2*)(w[p] + (size_t)d * n + j);
          w0[d] = v.x, w1[d] = v.y;
        }
      } else {
        read4(w0 + c, w[p] + (size_t)j * R + c);
        read4(w1 + c, w[p] + (size_t)(j + 1) * R + c);
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS_OUT; r++) {
      if (row0 + r >= m) break;
      const float* f = h + (size_t)(row0 + r) * stride + p * R;
#pragma unroll
      for (int c = 0; c < R; c += 4) {
        float v[4];
        read4(v, f + c);
#pragma unroll
        for (int d = 0; d < 4; d++) sum[r][0] += v[d] * w0[c + d], sum[r][1] += v[d] * w1[c + d];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS_OUT; r++) {
    if (row0 + r >= m) break;
    const size_t at = (size_t)(row0 + r) * n + j;
    const u32 v = *(const u32*)(base + at);
    *(u32*)(out + at) = pack(lo(v) + scale * sum[r][0], hi(v) + scale * sum[r][1]);
  }
}

__device__ __forceinline__ int narrow_blocks(int m, int chunks) { return (m + ROWS_IN - 1) / ROWS_IN * chunks; }
__device__ __forceinline__ int outer_blocks(int n, int chunks) { return (n + COLUMNS_IN - 1) / COLUMNS_IN * chunks; }
__device__ __forceinline__ int update_blocks(int m, int n) {
  return (n + 2 * THREADS - 1) / (2 * THREADS) * ((m + ROWS_OUT - 1) / ROWS_OUT);
}

// h = x a of every part.
template <int P, int R, int C>
__device__ __forceinline__ void low_rank_in(const u16* x, const float* const (&a)[P], float* h, int m, int k) {
  __shared__ float shared[WARPS * ROWS_IN * C];
  const int blocks = narrow_blocks(m, R / C), p = blockIdx.x / blocks;
  narrow_product<R, C, false>(x, a[p], h + p * R, m, k, P * R, 1.f, blockIdx.x % blocks, shared);
}

// y_p = base_p + scale * h_p b_p.
template <int P, int R>
__device__ __forceinline__ void low_rank_out(const u16* const (&base)[P], const float* const (&b)[P], const float* h,
                                             u16* const (&y)[P], int m, const int (&n)[P], float scale) {
  int block = blockIdx.x;
#pragma unroll
  for (int p = 0; p < P; p++) {
    const int blocks = update_blocks(m, n[p]);
    if (block >= 0 && block < blocks) {
      const float* const w[1] = {b[p]};
      wide_update<1, R, true>(base[p], h + p * R, w, y[p], m, n[p], P * R, scale, block);
    }
    block -= blocks;
  }
}

// dh_p = scale * dy_p b_p^T and db_p = scale * h_p^T dy_p.
template <int P, int R, int C>
__device__ __forceinline__ void low_rank_back_out(const u16* const (&dy)[P], const float* const (&b)[P], const float* h,
                                                  float* dh, float* const (&db)[P], int m, const int (&n)[P], float scale) {
  __shared__ float shared[WARPS * 4 * COLUMNS_IN];
  int block = blockIdx.x;
#pragma unroll
  for (int p = 0; p < P; p++) {
    const int narrow = narrow_blocks(m, R / C), outer = outer_blocks(n[p], R / C);
    if (block >= 0 && block < narrow)
      narrow_product<R, C, true>(dy[p], b[p], dh + p * R, m, n[p], P * R, scale, block, shared);
    else if (block >= narrow && block < narrow + outer)
      outer_sum<R, C, true>(h + p * R, dy[p], db[p], m, n[p], P * R, scale, block - narrow, shared);
    block -= narrow + outer;
  }
}

// dx = base + sum of dh_p a_p^T and da_p = x^T dh_p.
template <int P, int R, int C>
__device__ __forceinline__ void low_rank_back_in(const u16* x, const u16* base, const float* dh, const float* const (&a)[P],
                                                 u16* dx, float* const (&da)[P], int m, int k) {
  __shared__ float shared[WARPS * 4 * COLUMNS_IN];
  const int update = update_blocks(m, k), outer = outer_blocks(k, R / C);
  int block = blockIdx.x;
  if (block < update) return wide_update<P, R, false>(base, dh, a, dx, m, k, P * R, 1.f, block);
  block -= update;
#pragma unroll
  for (int p = 0; p < P; p++) {
    if (block >= 0 && block < outer)
      outer_sum<R, C, false>(dh + p * R, x, da[p], m, k, P * R, 1.f, block, shared);
    block -= outer;
  }
}
