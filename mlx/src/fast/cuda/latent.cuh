// One decode step of latent attention (MLA, absorbed): a new token in each of B sequences, one latent row [RANK] and one
// rotated key row [ROPE] a token, shared by all heads. In one launch: the latent's norm, RoPE on queries and key, both rows
// written IN PLACE into the caches, scores (q_lat latent + q_pe key) * scale, softmax, mixed latents.
// q T [B, q_row]: the ROPE rotated numbers of head h from q_at + h q_head on. q_lat T [B, H, RANK]: queries in the latent space.
// kv T [B, kv_row]: latent, then key. lc T [B, cap, RANK], pc T [B, cap, ROPE]. Row b sees slots starts[b] (0 without
// starts) to seen, or the last `window` of them; its position is place - starts[b]. freq f32 [ROPE / 2] radians a position.
// Grid (splits, blocks of 16 heads, B), 4 warps. A block takes 32 keys a step, the rows of one step under way while those of the
// other are used: each warp scores 8 keys for 16 heads and then mixes a quarter of the columns. out T [B, H, RANK]; with more than
// one split f32 part: [B, blocks, splits, 16, RANK], behind it [.., 16, 2] (maximum, sum), for `merge`.
// RANK is a multiple of 64, ROPE of 16.
constexpr int KEYS = 32;

__device__ __forceinline__ size_t groups_of(int H) { return (H + 15) / 16; }

template <int RANK, int ROPE, bool TRADITIONAL>
__device__ __forceinline__ void latent(const u16* q, const u16* q_lat, const u16* kv, u16* lc, u16* pc, const float* freq,
                                       const u16* norm, const int* starts, u16* out, float* part, int slot, int seen, int place,
                                       int cap, int window, int H, int q_row, int q_head, int q_at, int kv_row, float eps,
                                       float scale, float feature) {
  constexpr int D = RANK + ROPE, S = D + 8, W = RANK / 4, P = KEYS + 8;
  extern __shared__ __align__(16) u8 smem[];
  u16(*qs)[S] = (u16(*)[S])smem;                               // [16]
  u16(*tile)[KEYS][S] = (u16(*)[KEYS][S])(smem + 16 * S * 2);  // [2]
  u16(*ps)[P] = (u16(*)[P])(smem + (16 + 2 * KEYS) * S * 2);   // [16]
  u16* fresh = (u16*)(smem + ((16 + 2 * KEYS) * S + 16 * P) * 2);  // [D]: the new token
  __shared__ float top[4][16], sum[4][16], squares[4];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, r = lane >> 2, t = lane & 3;
  const int split = blockIdx.x, splits = gridDim.x, g = blockIdx.y, b = blockIdx.z;
  float* stats = part + (size_t)gridDim.z * gridDim.y * splits * 16 * RANK;
  const size_t mine = ((size_t)b * gridDim.y + g) * splits + split;
  int start = 0;
  if (starts) start = min(max(starts[b], 0), seen);
  const int position = place - start;
  if (window > 0) start = max(start, seen + 1 - window);
  const int begin = start / KEYS, tiles = seen / KEYS + 1 - begin, per = (tiles + splits - 1) / splits;
  const int t0 = begin + split * per, t1 = min(begin + tiles, t0 + per);
  if (t0 >= t1) {
    if (tid < 16) stats[(mine * 16 + tid) * 2] = -1e30f, stats[(mine * 16 + tid) * 2 + 1] = 0;
    return;
  }
  auto turn = [&](const u16* x, u16* to, int i) {
    const int i0 = TRADITIONAL ? 2 * i : i, i1 = TRADITIONAL ? 2 * i + 1 : i + ROPE / 2;
    if (!freq) {
      to[i0] = x[i0], to[i1] = x[i1];
      return;
    }
    const float a = widen(x[i0]) * feature, c = widen(x[i1]) * feature;
    float sn, cs;
    sincosf((float)position * freq[i], &sn, &cs);
    to[i0] = narrow(a * cs - c * sn), to[i1] = narrow(c * cs + a * sn);
  };
  for (int i = tid; i < 16 * RANK / 8; i += 128) {
    const int h = i / (RANK / 8), c = i % (RANK / 8) * 8, head = g * 16 + h;
    *(uint4*)&qs[h][c] = head < H ? *(const uint4*)(q_lat + ((size_t)b * H + head) * RANK + c) : make_uint4(0, 0, 0, 0);
  }
  for (int i = tid; i < 16 * ROPE / 2; i += 128) {
    const int h = i / (ROPE / 2), c = i % (ROPE / 2), head = g * 16 + h;
    if (head < H) turn(q + (size_t)b * q_row + q_at + head * q_head, &qs[h][RANK], c);
    else *(u32*)&qs[h][RANK + 2 * c] = 0;
  }
  const bool writes = slot / KEYS >= t0 && slot / KEYS < t1;
  if (writes) {
    const u16* x = kv + (size_t)b * kv_row;
    float f = 1;
    if (norm) {
      float ss = 0;
      for (int i = tid; i < RANK; i += 128) ss += widen(x[i]) * widen(x[i]);
      ss = warp_sum(ss);
      if (lane == 0) squares[warp] = ss;
      __syncthreads();
      f = rsqrtf((squares[0] + squares[1] + squares[2] + squares[3]) / RANK + eps);
    }
    for (int i = tid; i < RANK; i += 128) fresh[i] = norm ? narrow(widen(x[i]) * f * widen(norm[i])) : x[i];
    for (int i = tid; i < ROPE / 2; i += 128) turn(x + RANK, fresh + RANK, i);
    __syncthreads();
    if (g == 0) {
      for (int i = tid; i < RANK; i += 128) lc[((size_t)b * cap + slot) * RANK + i] = fresh[i];
      for (int i = tid; i < ROPE; i += 128) pc[((size_t)b * cap + slot) * ROPE + i] = fresh[RANK + i];
    }
  }
  auto load = [&](int n, int to) {
    for (int i = tid; i < KEYS * (D / 8); i += 128) {
      const int row = i / (D / 8), c = i % (D / 8) * 8, key = min(n * KEYS + row, seen);
      u16* dst = &tile[to][row][c];
      const u16* src = c < RANK ? lc + ((size_t)b * cap + key) * RANK + c : pc + ((size_t)b * cap + key) * ROPE + c - RANK;
      if (key == slot) for (int e = 0; e < 8; e++) dst[e] = fresh[c + e];
      else copy16(dst, src);
    }
    copies_end();
  };
  float o[W / 8][4];
#pragma unroll
  for (int i = 0; i < W / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  float m[2] = {-1e30f, -1e30f}, l[2] = {0, 0};
  const float sc = scale * 1.44269504f;
  load(t0, 0);
#pragma unroll 1
  for (int n = t0; n < t1; n++) {
    const int now = (n - t0) & 1;
    if (n + 1 < t1) load(n + 1, now ^ 1), copies_wait<1>();
    else copies_wait<0>();
    __syncthreads();
    float s[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (int k = 0; k < D / 16; k++) {
      u32 a[4], c[2];
      matrices4(a, &qs[lane & 15][k * 16 + (lane >> 4) * 8]);
      matrices2(c, &tile[now][warp * 8 + (lane & 7)][k * 16 + ((lane >> 3) & 1) * 8]);
      mma(s, a[0], a[1], a[2], a[3], c[0], c[1]);
    }
    float mx[2] = {-1e30f, -1e30f};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = n * KEYS + warp * 8 + 2 * t + (i & 1);
      s[i] = key > seen || key < start ? -1e30f : s[i] * sc;
      mx[i >> 1] = fmaxf(mx[i >> 1], s[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      mx[i] = fmaxf(mx[i], __shfl_xor_sync(~0u, mx[i], 1));
      mx[i] = fmaxf(mx[i], __shfl_xor_sync(~0u, mx[i], 2));
      if (t == 0) top[warp][r + 8 * i] = mx[i];
    }
    __syncthreads();
    float less[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int h = r + 8 * i;
      const float most = fmaxf(m[i], fmaxf(fmaxf(top[0][h], top[1][h]), fmaxf(top[2][h], top[3][h])));
      less[i] = exp2f(m[i] - most), m[i] = most;
      const float p0 = s[2 * i] > -1e29f ? exp2f(s[2 * i] - most) : 0.f;
      const float p1 = s[2 * i + 1] > -1e29f ? exp2f(s[2 * i + 1] - most) : 0.f;
      l[i] = l[i] * less[i] + p0 + p1;
      *(u32*)&ps[h][warp * 8 + 2 * t] = pack(p0, p1);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < W / 8; i++) o[i][0] *= less[0], o[i][1] *= less[0], o[i][2] *= less[1], o[i][3] *= less[1];
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
      u32 a[4];
      matrices4(a, &ps[lane & 15][k * 16 + (lane >> 4) * 8]);
#pragma unroll
      for (int i = 0; i < W / 16; i++) {
        u32 v[4];
        matrices4_turned(v, &tile[now][k * 16 + (lane & 15)][warp * W + i * 16 + (lane >> 4) * 8]);
        mma(o[2 * i], a[0], a[1], a[2], a[3], v[0], v[1]);
        mma(o[2 * i + 1], a[0], a[1], a[2], a[3], v[2], v[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    l[i] += __shfl_xor_sync(~0u, l[i], 1);
    l[i] += __shfl_xor_sync(~0u, l[i], 2);
    if (t == 0) sum[warp][r + 8 * i] = l[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int h = r + 8 * i, head = g * 16 + h;
    const float total = (sum[0][h] + sum[1][h]) + (sum[2][h] + sum[3][h]);
    if (head >= H) continue;
    if (splits > 1 && warp == 0 && t == 0) stats[(mine * 16 + h) * 2] = m[i], stats[(mine * 16 + h) * 2 + 1] = total;
#pragma unroll
    for (int j = 0; j < W / 8; j++) {
      const int c = warp * W + j * 8 + 2 * t;
      const float x = o[j][2 * i], y = o[j][2 * i + 1];
      if (splits == 1) *(u32*)(out + ((size_t)b * H + head) * RANK + c) = pack(x / total, y / total);
      else *(float2*)(part + (mine * 16 + h) * RANK + c) = make_float2(x, y);
    }
  }
}

// The parts of all splits: out T [B, H, RANK]. Grid (H, B), RANK / 4 threads.
template <int RANK>
__device__ __forceinline__ void merge(const float* part, u16* out, int splits) {
  const int h = blockIdx.x, H = gridDim.x, b = blockIdx.y, c = threadIdx.x * 4;
  const size_t groups = groups_of(H), first = ((size_t)b * groups + h / 16) * splits;
  const float* stats = part + (size_t)gridDim.y * groups * splits * 16 * RANK;
  float m = -1e30f, l = 0;
  for (int s = 0; s < splits; s++) m = fmaxf(m, stats[((first + s) * 16 + h % 16) * 2]);
  float4 o = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int s = 0; s < splits; s++) {
    const size_t at = (first + s) * 16 + h % 16;
    const float sum = stats[at * 2 + 1];
    if (sum == 0) continue;  // nothing was written
    const float f = exp2f(stats[at * 2] - m);
    const float4 v = *(const float4*)(part + at * RANK + c);
    l += f * sum;
    o.x += f * v.x, o.y += f * v.y, o.z += f * v.z, o.w += f * v.w;
  }
  const float f = 1.f / l;
  *(uint2*)(out + ((size_t)b * H + h) * RANK + c) = make_uint2(pack(o.x * f, o.y * f), pack(o.z * f, o.w * f));
}
