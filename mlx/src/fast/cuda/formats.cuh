// Weight formats. A block is 128 columns of a row; lane t of the four that share a row reads its part of the block
// (`load`) and `pairs(u)` gives the 8 weights of unit u (0..3) as four pairs of T in the order of the matrix
// instruction. `permute` brings 8 numbers of x into
// that order, `natural` back; `unit(i)` is where the i-th 8 numbers of x lie in that order.
#if HALF
#define ONE_PLUS 0x64006400u  // 1024, whose low bits count in ones
#define MINUS 0xe400e400u
#else
#define ONE_PLUS 0x43004300u  // 128
#define MINUS 0xc300c300u
#endif
#define ONE twice(1.f)

// Rows of T.
struct Dense {
  static constexpr int WORDS = 16;
  uint4 w[4];
  __device__ __forceinline__ void load(const u8* row, const u8*, const u8*, int block, int t, int K) {
#pragma unroll
    for (int u = 0; u < 4; u++)
      w[u] = block * 128 + u * 32 < K ? stream16(row + (size_t)block * 256 + u * 64 + t * 16) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ uint4 pairs(int u) { return w[u]; }
  static __device__ __forceinline__ int unit(int i) { return i; }
  static __device__ __forceinline__ uint4 permute(uint4 v) { return v; }
  static __device__ __forceinline__ uint4 natural(uint4 v) { return v; }
  static __device__ __forceinline__ size_t row_bytes(int K) { return (size_t)K * 2; }
  static __device__ __forceinline__ size_t scale_bytes(int K) { return 0; }
};

// MLX affine: q * scale + bias a group, codes packed low bits first. q becomes T exactly, the product is rounded once.
template <int BITS, int GROUP>
struct Affine {
  u32 w[BITS];  // 32 columns
  u32 s, b;
  __device__ __forceinline__ void load(const u8* row, const u8* scales, const u8* biases, int block, int t, int K) {
    if (block * 128 + t * 32 >= K) return zero();
    const u8* p = row + ((size_t)block * 4 + t) * (BITS * 4);
    if (BITS % 4 == 0) {
#pragma unroll
      for (int i = 0; i < BITS / 4; i++) {
        uint4 v = stream16(p + 16 * i);
        w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < BITS; i++) w[i] = stream4(p + 4 * i);
    }
    const int g = (block * 128 + t * 32) / GROUP;
    s = ((const u16*)scales)[g], b = ((const u16*)biases)[g];
  }
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int i = 0; i < BITS; i++) w[i] = 0;
    s = b = 0;
  }
  __device__ __forceinline__ uint4 pairs(int u) {
    const u32 S = __byte_perm(s, s, 0x1010), B = __byte_perm(b, b, 0x1010);
    u32 q[4];
    if (BITS == 4) {
#pragma unroll
      for (int i = 0; i < 4; i++) q[i] = fma2(((w[u] >> (4 * i)) & 0x000f000fu) | ONE_PLUS, ONE, MINUS);
    } else if (BITS == 8) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 p = w[2 * u + (i >> 1)] >> (8 * (i & 1));
        u32 l = fma2((p & 0x000f000fu) | ONE_PLUS, ONE, MINUS);
        u32 h = fma2(((p >> 4) & 0x000f000fu) | ONE_PLUS, ONE, MINUS);
        q[i] = fma2(h, twice(16.f), l);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 v[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int bit = (u * 8 + 2 * i + j) * BITS, k = bit / 32, o = bit % 32;
          v[j] = (o + BITS > 32 ? __funnelshift_r(w[k], w[k + 1 < BITS ? k + 1 : k], o) : w[k] >> o) & ((1u << BITS) - 1);
        }
        q[i] = fma2(v[0] | (v[1] << 16) | ONE_PLUS, ONE, MINUS);
      }
    }
    return make_uint4(fma2(q[0], S, B), fma2(q[1], S, B), fma2(q[2], S, B), fma2(q[3], S, B));
  }
  static __device__ __forceinline__ int unit(int i) { return (i & ~15) | ((i & 3) << 2) | ((i >> 2) & 3); }
  static __device__ __forceinline__ uint4 permute(uint4 v) {
    if (BITS == 4)  // 0,4 1,5 2,6 3,7
      return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
                        __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632));
    if (BITS == 8)  // 0,2 1,3 4,6 5,7
      return make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632),
                        __byte_perm(v.z, v.w, 0x5410), __byte_perm(v.z, v.w, 0x7632));
    return v;
  }
  static __device__ __forceinline__ uint4 natural(uint4 v) {
    if (BITS == 4)
      return make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.z, v.w, 0x5410),
                        __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x7632));
    return permute(v);
  }
  static __device__ __forceinline__ size_t row_bytes(int K) { return (size_t)K / 8 * BITS; }
  static __device__ __forceinline__ size_t scale_bytes(int K) { return (size_t)K / GROUP * 2; }
};

// Microscaled floats: 4-bit e2m1 or 8-bit e4m3 codes; one scale byte a group: e8m0 (MX) or e4m3 (NV).
template <int BITS, int GROUP, bool NV>
struct Micro {
  u32 w[BITS];
  u32 s;  // scale bytes of this lane's 32 columns
  __device__ __forceinline__ void load(const u8* row, const u8* scales, const u8*, int block, int t, int K) {
    if (block * 128 + t * 32 >= K) return zero();
    const u8* p = row + ((size_t)block * 4 + t) * (BITS * 4);
#pragma unroll
    for (int i = 0; i < BITS / 4; i++) {
      uint4 v = stream16(p + 16 * i);
      w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
    }
    const int c = block * 128 + t * 32;
    s = scales[c / GROUP];
    if (GROUP == 16) s |= (u32)scales[c / GROUP + 1] << 8;
  }
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int i = 0; i < BITS; i++) w[i] = 0;
    s = 0;
  }
  __device__ __forceinline__ float factor(int u) {
    u32 e = (GROUP == 16 && u >= 2) ? s >> 8 : s & 255;
    if (NV) return __uint_as_float((e & 0x7f) << 20) * 0x1p120f * ((e & 0x80) ? -1.f : 1.f);
    return e ? __uint_as_float(e << 23) : 0x1p-127f;
  }
  static __device__ __forceinline__ float value(u32 code) {
    if (BITS == 4) {
      float v = __uint_as_float((code & 7) << 22) * 0x1p126f;
      return (code & 8) ? -v : v;
    }
    float v = __uint_as_float((code & 0x7f) << 20) * 0x1p120f;
    return (code & 0x80) ? -v : v;
  }
  __device__ __forceinline__ uint4 pairs(int u) {
    const float f = factor(u);
    u32 q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 a, b;
      if (BITS == 4) a = w[u] >> (8 * i), b = a >> 4;
      else a = w[2 * u + (i >> 1)] >> (16 * (i & 1)), b = a >> 8;
      q[i] = pack(value(a) * f, value(b) * f);
    }
    return make_uint4(q[0], q[1], q[2], q[3]);
  }
  static __device__ __forceinline__ int unit(int i) { return (i & ~15) | ((i & 3) << 2) | ((i >> 2) & 3); }
  static __device__ __forceinline__ uint4 permute(uint4 v) { return v; }
  static __device__ __forceinline__ uint4 natural(uint4 v) { return v; }
  static __device__ __forceinline__ size_t row_bytes(int K) { return (size_t)K / 8 * BITS; }
  static __device__ __forceinline__ size_t scale_bytes(int K) { return (size_t)K / GROUP; }
};
