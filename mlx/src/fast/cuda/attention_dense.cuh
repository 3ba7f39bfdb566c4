// One decode step of attention: a new token in each of B sequences. In one launch: [rms_norm of each head of q and k,]
// RoPE on q and k, k and v written IN PLACE into the caches, softmax(q k^T * scale) v over the cached keys, merge.
// qkv T [B, (HQ + 2 HKV) * D]: q heads, k heads, v heads. kc, vc T [B, HKV, cap, D]. All rows write
// `slot`; row b sees slots starts[b] (0 without starts) to seen, or the last `window` of them; its position is
// place - starts[b]. In a ring `slot` lies before `seen`, else they are the same. freq f32 [rot / 2]: radians a position; features from rot on
// stay, rotated ones are multiplied by `feature`. sinks T [HQ]: a logit a head that carries no value. count int32
// [B * HKV]: zeros, left zero. part f32: scratch, [B * HKV, splits, GQ, D] and behind it [B * HKV, splits, GQ, 2] (maximum, sum).
// Grid (splits, HKV, B), NW warps. A warp takes 16 keys a step, scores and values both on the tensor cores with the GQ
// query heads of a key head as rows; the block that comes last merges. D is a multiple of 32 up to 256, GQ <= 8.
template <int D, int GQ, int NW, bool TRADITIONAL>
__device__ __forceinline__ void attention(const u16* qkv, u16* kc, u16* vc, const float* freq, const u16* q_norm,
                                          const u16* k_norm, const u16* sinks, const int* starts, int* count,
                                          const u8* next, u16* out, float* part, int slot, int seen, int place, int cap, int window, int rot, float eps,
                                          float scale, float cap_logit, float feature, int next_bytes) {
  constexpr int ND = D / 32, NV = (D + 63) / 64, E = (D + 31) / 32;
  __shared__ __align__(16) u16 qs[8][D + 8];
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
  if (starts) start = min(max(starts[b], 0), seen);
  const int position = place - start;
  if (window > 0) start = max(start, seen + 1 - window);
  const int begin = start >> 4, tiles = (seen >> 4) + 1 - begin, per = (tiles + splits - 1) / splits;
  const int active = (tiles + per - 1) / per;
  if (split >= active) return;
  const int t0 = begin + split * per, t1 = min(begin + tiles, t0 + per);
  u16* K = kc + ((size_t)b * HKV + h) * cap * D;
  u16* V = vc + ((size_t)b * HKV + h) * cap * D;
  const u16* row = qkv + (size_t)b * (HQ + 2 * HKV) * D;
  // Rows 0..GQ-1: the query heads; GQ: k; GQ+1: v. The block that holds `slot` writes k and v.
  const bool writes = slot >> 4 >= t0 && slot >> 4 < t1;
  for (int j = warp; j < (writes ? GQ + 2 : GQ); j += NW) {
    const u16* x = row + (j < GQ ? h * GQ + j : j == GQ ? HQ + h : HQ + HKV + h) * D;
    if (j == GQ + 1) {
      for (int i = lane; i < D / 8; i += 32) ((uint4*)(V + (size_t)slot * D))[i] = ((const uint4*)x)[i];
      continue;
    }
    const u16* norm = j < GQ ? q_norm : k_norm;
    float v[E], ss = 0, f = 1;
    if (norm) {
#pragma unroll
      for (int e = 0; e < E; e++) v[e] = widen(x[lane + 32 * e]), ss += v[e] * v[e];
      f = rsqrtf(warp_sum(ss) / D + eps);
    }
    u16* dst = j < GQ ? &qs[j][0] : K + (size_t)slot * D;
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
  uint4 q[ND];
#pragma unroll
  for (int j = 0; j < ND; j++) {
    q[j] = make_uint4(0, 0, 0, 0);
    if (r < GQ) q[j] = *(const uint4*)&qs[r][j * 32 + t * 8];
  }
  float o[NV * 8][4];
#pragma unroll
  for (int i = 0; i < NV * 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  float m = -1e30f, l = 0;
  const float log2e = 1.44269504f, sc = scale * log2e;
#pragma unroll 1
  for (int tile = t0 + warp; tile < t1; tile += NW) {
    const int kb = tile * 16;
    uint4 kr[2][ND], vr[NV][4];
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
      for (int j = 0; j < ND; j++)
        kr[u][j] = *(const uint4*)(K + (size_t)min(kb + 8 * u + r, seen) * D + j * 32 + t * 8);
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
      for (int j = 0; j < NV; j++) {
        vr[j][u] = make_uint4(0, 0, 0, 0);
        if (D % 64 == 0 || j * 64 + r * 8 < D)
          vr[j][u] = *(const uint4*)(V + (size_t)min(kb + 2 * t + (u & 1) + 8 * (u >> 1), seen) * D + j * 64 + r * 8);
      }
    float s[4];
#pragma unroll
    for (int u = 0; u < 2; u++) {
      float d[4] = {0, 0, 0, 0};
#pragma unroll
      for (int j = 0; j < ND; j++) {
        mma(d, q[j].x, 0, q[j].y, 0, kr[u][j].x, kr[u][j].y);
        mma(d, q[j].z, 0, q[j].w, 0, kr[u][j].z, kr[u][j].w);
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int key = kb + 8 * u + 2 * t + i;
        float z = d[i] * sc;
        if (cap_logit > 0) z = cap_logit * log2e * tanhf(d[i] * scale / cap_logit);
        s[2 * u + i] = key > seen || key < start ? -1e30f : z;
      }
    }
    float mx = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
    mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
    mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
    const float mn = fmaxf(m, mx), cr = exp2f(m - mn);
    m = mn;
    float p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) p[i] = s[i] > -1e29f ? exp2f(s[i] - m) : 0.f;
    l = l * cr + ((p[0] + p[1]) + (p[2] + p[3]));
    const u32 a0 = pack(p[0], p[1]), a2 = pack(p[2], p[3]);
#pragma unroll
    for (int j = 0; j < NV; j++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const u32 *v0 = (const u32*)&vr[j][0], *v1 = (const u32*)&vr[j][1];
        const u32 *v2 = (const u32*)&vr[j][2], *v3 = (const u32*)&vr[j][3];
        const u32 pick = (i & 1) ? 0x7632 : 0x5410;
        float(&c)[4] = o[j * 8 + i];
        c[0] *= cr, c[1] *= cr;
        mma(c, a0, 0, a2, 0, __byte_perm(v0[i / 2], v1[i / 2], pick), __byte_perm(v2[i / 2], v3[i / 2], pick));
      }
  }
  l += __shfl_xor_sync(~0u, l, 1);
  l += __shfl_xor_sync(~0u, l, 2);
  if (r < GQ) {
    if (t == 0) top[warp][r] = m, sum[warp][r] = l;
#pragma unroll
    for (int j = 0; j < NV; j++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int c = j * 64 + 16 * t + i;
        if (D % 64 == 0 || c < D) acc[warp][r][c] = o[j * 8 + i][0];
        if (D % 64 == 0 || c + 8 < D) acc[warp][r][c + 8] = o[j * 8 + i][1];
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
