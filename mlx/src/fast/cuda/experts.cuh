// route: logits T [rows, E] to the TOP best experts of each row and their weights; one warp a row. Scores are the logits
// (SCORING 0), their softmax (1) or sigmoid (2); `correction` f32 [E] takes part in the choice only. WEIGHTS 0: the
// scores, 1: divided by their sum + eps, 2: softmax over the chosen. idx uint32 and weights f32 [rows, TOP].
template <int PER, int SCORING, int WEIGHTS>
__device__ __forceinline__ void route(const u16* logits, const float* correction, u32* idx, float* weights, int E,
                                      int top, float eps, float scale) {
  const int lane = threadIdx.x, row = blockIdx.x;
  float score[PER], choice[PER], hi_ = -__int_as_float(0x7f800000);
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int e = lane + 32 * i;
    score[i] = e < E ? widen(logits[(size_t)row * E + e]) : -__int_as_float(0x7f800000);
    hi_ = fmaxf(hi_, score[i]);
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) hi_ = fmaxf(hi_, __shfl_xor_sync(~0u, hi_, o));
  float sum = 0;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    if (SCORING == 1) score[i] = expf(score[i] - hi_), sum += score[i];
    if (SCORING == 2) score[i] = 1.f / (1.f + expf(-score[i]));
  }
  if (SCORING == 1) sum = 1.f / warp_sum(sum);
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int e = lane + 32 * i;
    if (SCORING == 1) score[i] *= sum;
    choice[i] = e < E ? score[i] + (correction ? correction[e] : 0.f) : -__int_as_float(0x7f800000);
  }
  float mine = 0;  // lane k keeps the k-th weight
  u32 chosen = 0;
  for (int k = 0; k < top; k++) {
    float best = -__int_as_float(0x7f800000), value = 0;
    u32 at = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < PER; i++)
      if (lane + 32 * i < E && (choice[i] > best || at == 0xffffffffu)) best = choice[i], at = lane + 32 * i, value = score[i];
#pragma unroll
    for (int o = 16; o; o >>= 1) {
      const float b = __shfl_xor_sync(~0u, best, o), v = __shfl_xor_sync(~0u, value, o);
      const u32 a = __shfl_xor_sync(~0u, at, o);
      if (a != 0xffffffffu && (at == 0xffffffffu || b > best || (b == best && a < at))) best = b, at = a, value = v;
    }
#pragma unroll
    for (int i = 0; i < PER; i++)
      if (at == lane + 32 * i) choice[i] = -__int_as_float(0x7f800000);
    if (lane == k) mine = value, chosen = at;
  }
  if (WEIGHTS == 1) mine /= warp_sum(lane < top ? mine : 0.f) + eps;
  if (WEIGHTS == 2) {
    float m = lane < top ? mine : -__int_as_float(0x7f800000);
#pragma unroll
    for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
    mine = lane < top ? expf(mine - m) : 0.f;
    mine /= warp_sum(mine);
  }
  if (lane < top) idx[row * top + lane] = chosen, weights[row * top + lane] = mine * scale;
}

// out[t, :] = x[t, :] + sum over s of weights[t, s] * y[t, s, :], 8 columns a thread.
__device__ __forceinline__ void combine(const u16* x, const u16* y, const float* weights, u16* out, int slots, int K) {
  const size_t t = blockIdx.y;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i * 8 >= K) return;
  float a[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int s = 0; s < slots; s++) {
    const uint4 v = ((const uint4*)(y + (t * slots + s) * K))[i];
    const float w = weights[t * slots + s];
    a[0] += w * lo(v.x), a[1] += w * hi(v.x), a[2] += w * lo(v.y), a[3] += w * hi(v.y);
    a[4] += w * lo(v.z), a[5] += w * hi(v.z), a[6] += w * lo(v.w), a[7] += w * hi(v.w);
  }
  const uint4 r = ((const uint4*)(x + t * K))[i];
  auto join = [](u32 r, float p, float q) { return pack(lo(r) + rounded(p), hi(r) + rounded(q)); };
  ((uint4*)(out + t * K))[i] =
      make_uint4(join(r.x, a[0], a[1]), join(r.y, a[2], a[3]), join(r.z, a[4], a[5]), join(r.w, a[6], a[7]));
}
