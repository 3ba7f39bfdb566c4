// One update of Adam over n float32 numbers. The parameter shrinks by rate * decay first (AdamW); new1 and new2 are
// 1 - b1 and 1 - b2 without their rounding. With `corrected`, `factor` is rate / (1 - b1^t) and `second` is
// 1 / sqrt(1 - b2^t), else the rate and nothing.
template <bool corrected>
__device__ __forceinline__ void adam(const float* g, const float* p, const float* m, const float* v, const float* rate,
                                     const float* factor, const float* second, float* p_out, float* m_out,
                                     float* v_out, int n, float b1, float new1, float b2, float new2, float eps,
                                     float decay) {
  const float keep = 1.f - *rate * decay, f = *factor, s = corrected ? *second : 1.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const float gi = g[i];
    const float mi = m[i] * b1 + gi * new1, vi = v[i] * b2 + gi * gi * new2;
    p_out[i] = p[i] * keep - f * mi / (sqrtf(vi) * s + eps);
    m_out[i] = mi, v_out[i] = vi;
  }
}
