// out[b] = scale * row ids[b] of an embedding table of any weight format; one block a row. Ids are clipped to the table.
template <class F>
__device__ __forceinline__ void embed(const u32* ids, const u8* w, const u8* scales, const u8* biases, u16* out,
                                      int rows, int K, float scale) {
  const size_t id = min(ids[blockIdx.x], (u32)rows - 1);
  w += id * F::row_bytes(K), scales += id * F::scale_bytes(K), biases += id * F::scale_bytes(K);
  u16* dst = out + (size_t)blockIdx.x * K;
  for (int i = threadIdx.x; i < (K + 127) / 128 * 4; i += blockDim.x) {
    const int block = i >> 2, t = i & 3;
    F f;
    f.load(w, scales, biases, block, t, K);
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int column = block * 128 + (F::unit(1) == 1 ? u * 32 + t * 8 : t * 32 + u * 8);
      if (column >= K) continue;
      const uint4 v = F::natural(f.pairs(u));
      *(uint4*)(dst + column) = make_uint4(
          pack(lo(v.x) * scale, hi(v.x) * scale), pack(lo(v.y) * scale, hi(v.y) * scale),
          pack(lo(v.z) * scale, hi(v.z) * scale), pack(lo(v.w) * scale, hi(v.w) * scale));
    }
  }
}
