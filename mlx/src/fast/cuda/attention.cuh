// One decode step of attention: a new token in each of B sequences. In one launch: [rms_norm of each head of q and k,]
// RoPE on q and k, k and v written IN PLACE into the caches, softmax(q k^T * scale) v over the cached keys, merge.
// qkv T [B, (HQ + 2 HKV) * D]: q heads, k heads, v heads. kc, vc [B, HKV, cap, D] (of each page) as KF and VF store rows. All rows write
// `slot`; row b sees slots starts[b] (0 without starts) to seen, or the last `window` of them; its position is
// place - starts[b]. In a ring `slot` lies before `seen`, else they are the same; with starts `ring` is how many slots there are
// and the slots that row b sees are those filled since token starts[b]. freq f32 [rot / 2]: radians a position; features from
// rot on stay, rotated ones are multiplied by `feature`. sinks T [HQ]: a logit a head that carries no value. count int32
// [B * HKV]: zeros, left zero. part f32: scratch, [B * HKV, splits, GQ, D] and behind it [B * HKV, splits, GQ, 2] (maximum,
// sum). Grid (splits, HKV, B), NW warps. A warp takes 16 keys a step, scores and values both on the tensor cores with the
// GQ query heads of a key head as rows; the block that comes last merges. D is a multiple of 32 up to 256, GQ <= 16.

// A cache of rows: numbers, or words of codes with scales and offsets, or (x) a table of pages. Row `key` lies behind `base`.
struct Side {
  u8* x;
  u16 *scales, *biases;
};

// Rows of T.
template <int D>
struct DenseRows {
  static constexpr bool PACKED = false;
  static __device__ __forceinline__ u16* at(const Side& s, size_t base, int key) { return (u16*)s.x + (base + key) * D; }
  static __device__ __forceinline__ uint4 load(const Side& s, size_t base, int key, int c) { return *(const uint4*)(at(s, base, key) + c); }
  static __device__ __forceinline__ void store(const Side&, size_t, const u16*, int) {}
};

// Rows of T in pages of SIZE keys.
template <int D, int SIZE>
struct PagedRows {
  static constexpr bool PACKED = false;
  static __device__ __forceinline__ u16* at(const Side& s, size_t base, int key) {
    return ((u16* const*)s.x)[key / SIZE] + (base + key % SIZE) * D;
  }
  static __device__ __forceinline__ uint4 load(const Side& s, size_t base, int key, int c) { return *(const uint4*)(at(s, base, key) + c); }
  static __device__ __forceinline__ void store(const Side&, size_t, const u16*, int) {}
};

// MLX affine with 4 or 8 bits, groups along D.
template <int D, int BITS, int GROUP>
struct PackedRows {
  static constexpr bool PACKED = true;
  static __device__ __forceinline__ u16* at(const Side&, size_t, int) { return nullptr; }
  static __device__ __forceinline__ uint4 load(const Side& s, size_t base, int key, int c) {
    const size_t row = base + key;
    const u32* w = (const u32*)s.x + row * (D * BITS / 32) + c * BITS / 32;
    const size_t g = row * (D / GROUP) + c / GROUP;
    const u32 f = s.scales[g] * 0x10001u, b = s.biases[g] * 0x10001u;
    u32 q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 v = BITS == 4 ? w[0] >> 8 * i : w[i / 2] >> 16 * (i & 1), mask = (1u << BITS) - 1;
      const float lo_ = __uint_as_float(0x4b000000u | (v & mask)) - 8388608.f;
      const float hi_ = __uint_as_float(0x4b000000u | (v >> BITS & mask)) - 8388608.f;
      q[i] = fma2(pack(lo_, hi_), f, b);
    }
    return make_uint4(q[0], q[1], q[2], q[3]);
  }
  // One warp packs a row of numbers as `mlx.core.quantize` does.
  static __device__ __forceinline__ void store(const Side& s, size_t row, const u16* x, int lane) {
    constexpr int E = GROUP / 32, PER = 32 / BITS;
    constexpr float top = (1 << BITS) - 1;
    for (int g = 0; g < D / GROUP; g++) {
      float v[E], lowest = __int_as_float(0x7f800000), highest = -lowest;
#pragma unroll
      for (int e = 0; e < E; e++) {
        v[e] = widen(x[g * GROUP + e * 32 + lane]);
        lowest = fminf(lowest, v[e]), highest = fmaxf(highest, v[e]);
      }
#pragma unroll
      for (int o = 16; o; o >>= 1) {
        lowest = fminf(lowest, __shfl_xor_sync(~0u, lowest, o));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, o));
      }
      const bool down = fabsf(lowest) > fabsf(highest);
      const float edge = down ? lowest : highest;
      float scale = fmaxf((highest - lowest) / top, 1e-7f);
      if (!down) scale = -scale;
      const float steps = rintf(edge / scale);
      if (steps != 0) scale = edge / steps;
      const float bias = steps != 0 ? edge : 0.f;
#pragma unroll
      for (int e = 0; e < E; e++) {
        u32 word = (u32)fminf(fmaxf(rintf((v[e] - bias) / scale), 0.f), top) << lane % PER * BITS;
#pragma unroll
        for (int o = 1; o < PER; o <<= 1) word |= __shfl_xor_sync(~0u, word, o);
        if (lane % PER == 0) ((u32*)s.x)[row * (D / PER) + (g * GROUP + e * 32 + lane) / PER] = word;
      }
      if (lane == 0) s.scales[row * (D / GROUP) + g] = narrow(scale), s.biases[row * (D / GROUP) + g] = narrow(bias);
    }
  }
};

template <class KF, class VF, int D, int GQ, int NW, bool TRADITIONAL>
__device__ __forceinline__ void attention(const u16* qkv, Side kc, Side vc, const float* freq, const u16* q_norm,
                                          const u16* k_norm, const u16* sinks, const int* starts, int* count,
                                          const u8* next, u16* out, float* part, int slot, int seen, int place, int cap, int ring, int window, int rot, float eps,
                                          float scale, float cap_logit, float feature, int next_bytes) {
  constexpr int ND = D / 32, NV = (D + 63) / 64, E = (D + 31) / 32, HALVES = (GQ + 7) / 8;
  constexpr bool PACKED = KF::PACKED || VF::PACKED;
  __shared__ __align__(16) u16 qs[8 * HALVES][D + 8], fresh[PACKED ? 2 : 1][PACKED ? D : 8];
  __shared__ float top[NW][GQ], sum[NW][GQ];
  __shared__ __align__(16) float acc[NW][GQ][D];
  __shared__ int last;  // this block comes last
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tid = threadIdx.x, r = lane >> 2, t = lane & 3;
  const int split = blockIdx.x, splits = gridDim.x, h = blockIdx.y, HKV = gridDim.y, b = blockIdx.z, HQ = HKV * GQ;
  if (next) {  // little memory traffic here: bring in what the next launch reads first
    const size_t blocks = (size_t)splits * HKV * gridDim.z, id = ((size_t)b * HKV + h) * splits + split;
    for (size_t i = (id * NW * 32 + tid) * 128; i < next_bytes; i += blocks * NW * 32 * 128)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(next + i));
  }
  int start = 0;
  if (starts) start = min(max(starts[b], 0), ring ? place : seen);
  const int position = place - start, oldest = start;
  if (ring) start = 0;
  if (window > 0) start = max(start, seen + 1 - window);
  const int begin = start >> 4, tiles = (seen >> 4) + 1 - begin, per = (tiles + splits - 1) / splits;
  const int active = (tiles + per - 1) / per;
  if (split >= active) return;
  const int t0 = begin + split * per, t1 = min(begin + tiles, t0 + per);
  const size_t base = ((size_t)b * HKV + h) * cap;
  const u16* row = qkv + (size_t)b * (HQ + 2 * HKV) * D;
  // Rows 0..GQ-1: the query heads; GQ: k; GQ+1: v. The block that holds `slot` writes k and v.
  const bool writes = slot >> 4 >= t0 && slot >> 4 < t1;
  for (int j = warp; j < (writes ? GQ + 2 : GQ); j += NW) {
    const u16* x = row + (j < GQ ? h * GQ + j : j == GQ ? HQ + h : HQ + HKV + h) * D;
    if (j == GQ + 1) {
      uint4* to = (uint4*)(VF::PACKED ? &fresh[PACKED ? 1 : 0][0] : VF::at(vc, base, slot));
      for (int i = lane; i < D / 8; i += 32) to[i] = ((const uint4*)x)[i];
      continue;
    }
    const u16* norm = j < GQ ? q_norm : k_norm;
    float v[E], ss = 0, f = 1;
    if (norm) {
#pragma unroll
      for (int e = 0; e < E; e++) v[e] = widen(x[lane + 32 * e]), ss += v[e] * v[e];
      f = rsqrtf(warp_sum(ss) / D + eps);
    }
    u16* dst = j < GQ ? &qs[j][0] : KF::PACKED ? &fresh[0][0] : KF::at(kc, base, slot);
    auto normed = [&](int i) {
      const float a = widen(x[i]);
      return norm ? rounded(a * f * widen(norm[i])) : a;
    };
    for (int i = lane; i < rot / 2; i += 32) {
      const int i0 = TRADITIONAL ? 2 * i : i, i1 = TRADITIONAL ? 2 * i + 1 : i + rot / 2;
      const float a = normed(i0) * feature, c = normed(i1) * feature;
      float sn, cs;
      sincosf((float)position * freq[i], &sn, &cs);
      dst[i0] = narrow(a * cs - c * sn), dst[i1] = narrow(c * cs + a * sn);
    }
    for (int i = rot + lane; i < D; i += 32) dst[i] = narrow(normed(i));
  }
  __syncthreads();
  if (PACKED && writes) {
    if (warp == 0) KF::store(kc, base + slot, fresh[0], lane);
    if (warp == 1) VF::store(vc, base + slot, fresh[PACKED ? 1 : 0], lane);
    __syncthreads();
  }
  uint4 q[HALVES][ND];
#pragma unroll
  for (int y = 0; y < HALVES; y++)
#pragma unroll
    for (int j = 0; j < ND; j++) {
      q[y][j] = make_uint4(0, 0, 0, 0);
      if (r + 8 * y < GQ) q[y][j] = *(const uint4*)&qs[r + 8 * y][j * 32 + t * 8];
    }
  float o[NV * 8][4];
#pragma unroll
  for (int i = 0; i < NV * 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  float m[HALVES], l[HALVES];
#pragma unroll
  for (int y = 0; y < HALVES; y++) m[y] = -1e30f, l[y] = 0;
  const float log2e = 1.44269504f, sc = scale * log2e;
#pragma unroll 1
  for (int tile = t0 + warp; tile < t1; tile += NW) {
    const int kb = tile * 16;
    uint4 kr[2][ND], vr[NV][4];
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
      for (int j = 0; j < ND; j++)
        kr[u][j] = KF::load(kc, base, min(kb + 8 * u + r, seen), j * 32 + t * 8);
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
      for (int j = 0; j < NV; j++) {
        vr[j][u] = make_uint4(0, 0, 0, 0);
        if (D % 64 == 0 || j * 64 + r * 8 < D)
          vr[j][u] = VF::load(vc, base, min(kb + 2 * t + (u & 1) + 8 * (u >> 1), seen), j * 64 + r * 8);
      }
    float s[HALVES][4];
#pragma unroll
    for (int u = 0; u < 2; u++) {
      float d[4] = {0, 0, 0, 0};
#pragma unroll
      for (int j = 0; j < ND; j++) {
        const uint4 a = q[0][j], c = HALVES > 1 ? q[HALVES - 1][j] : make_uint4(0, 0, 0, 0);
        mma(d, a.x, c.x, a.y, c.y, kr[u][j].x, kr[u][j].y);
        mma(d, a.z, c.z, a.w, c.w, kr[u][j].z, kr[u][j].w);
      }
#pragma unroll
      for (int i = 0; i < 2 * HALVES; i++) {
        const int key = kb + 8 * u + 2 * t + (i & 1);
        float z = d[i] * sc;
        if (cap_logit > 0) z = cap_logit * log2e * tanhf(d[i] * scale / cap_logit);
        const bool hidden = ring && place - (slot - key + (key > slot ? ring : 0)) < oldest;
        s[i >> 1][2 * u + (i & 1)] = key > seen || key < start || hidden ? -1e30f : z;
      }
    }
    float cr[HALVES];
    u32 a[4] = {0, 0, 0, 0};
#pragma unroll
    for (int y = 0; y < HALVES; y++) {
      float mx = fmaxf(fmaxf(s[y][0], s[y][1]), fmaxf(s[y][2], s[y][3]));
      mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
      mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
      const float mn = fmaxf(m[y], mx);
      cr[y] = exp2f(m[y] - mn);
      m[y] = mn;
      float p[4];
#pragma unroll
      for (int i = 0; i < 4; i++) p[i] = s[y][i] > -1e29f ? exp2f(s[y][i] - mn) : 0.f;
      l[y] = l[y] * cr[y] + ((p[0] + p[1]) + (p[2] + p[3]));
      a[y] = pack(p[0], p[1]), a[y + 2] = pack(p[2], p[3]);
    }
#pragma unroll
    for (int j = 0; j < NV; j++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const u32 *v0 = (const u32*)&vr[j][0], *v1 = (const u32*)&vr[j][1];
        const u32 *v2 = (const u32*)&vr[j][2], *v3 = (const u32*)&vr[j][3];
        const u32 pick = (i & 1) ? 0x7632 : 0x5410;
        float(&c)[4] = o[j * 8 + i];
        c[0] *= cr[0], c[1] *= cr[0];
        if (HALVES > 1) c[2] *= cr[HALVES - 1], c[3] *= cr[HALVES - 1];
        mma(c, a[0], a[1], a[2], a[3], __byte_perm(v0[i / 2], v1[i / 2], pick), __byte_perm(v2[i / 2], v3[i / 2], pick));
      }
  }
#pragma unroll
  for (int y = 0; y < HALVES; y++) {
    l[y] += __shfl_xor_sync(~0u, l[y], 1);
    l[y] += __shfl_xor_sync(~0u, l[y], 2);
    const int g = r + 8 * y;
    if (g >= GQ) continue;
    if (t == 0) top[warp][g] = m[y], sum[warp][g] = l[y];
#pragma unroll
    for (int j = 0; j < NV; j++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int c = j * 64 + 16 * t + i;
        if (D % 64 == 0 || c < D) acc[warp][g][c] = o[j * 8 + i][2 * y];
        if (D % 64 == 0 || c + 8 < D) acc[warp][g][c + 8] = o[j * 8 + i][2 * y + 1];
      }
  }
  __syncthreads();
  const size_t group = (size_t)b * HKV + h, groups = (size_t)gridDim.z * HKV;
  float* mine = part + (group * splits + split) * GQ * D;
  float* stats = part + groups * splits * GQ * D + group * splits * GQ * 2;
  u16* dst = out + (size_t)b * HQ * D + h * GQ * D;
  for (int e = tid; e < GQ * D; e += NW * 32) {
    const int g = e / D, d = e % D;
    float mm = active == 1 && sinks ? widen(sinks[h * GQ + g]) * log2e : -1e30f, ll = 0, oo = 0;
#pragma unroll
    for (int w = 0; w < NW; w++) mm = fmaxf(mm, top[w][g]);
    if (active == 1 && sinks) ll = exp2f(widen(sinks[h * GQ + g]) * log2e - mm);
#pragma unroll
    for (int w = 0; w < NW; w++) {
      const float f = exp2f(top[w][g] - mm);
      ll += f * sum[w][g], oo += f * acc[w][g][d];
    }
    if (active == 1) {
      dst[e] = narrow(oo / ll);
    } else {
      mine[e] = oo;
      if (d == 0) stats[(split * GQ + g) * 2] = mm, stats[(split * GQ + g) * 2 + 1] = ll;
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (tid == 0) last = atomicAdd(&count[group], 1) == active - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int e = tid * 4; e < GQ * D; e += NW * 128) {
    const int g = e / D;
    float mm = sinks ? widen(sinks[h * GQ + g]) * log2e : -1e30f, ll = 0;
#pragma unroll 8
    for (int s = 0; s < active; s++) mm = fmaxf(mm, __ldcg(stats + (s * GQ + g) * 2));
    if (sinks) ll = exp2f(widen(sinks[h * GQ + g]) * log2e - mm);
    float4 oo = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int s = 0; s < active; s++) {
      const float f = exp2f(__ldcg(stats + (s * GQ + g) * 2) - mm);
      const float4 v = __ldcg((const float4*)(part + (group * splits + s) * GQ * D + e));
      ll += f * __ldcg(stats + (s * GQ + g) * 2 + 1);
      oo.x += f * v.x, oo.y += f * v.y, oo.z += f * v.z, oo.w += f * v.w;
    }
    const float f = 1.f / ll;
    *(uint2*)(dst + e) = make_uint2(pack(oo.x * f, oo.y * f), pack(oo.z * f, oo.w * f));
  }
  if (tid == 0) count[group] = 0;
}
