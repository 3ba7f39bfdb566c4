// What every kernel of this folder starts with. No header is included: NVRTC reads nothing but this text.
// T is bf16 or f16 (defined as HALF 0 or 1 before this text); numbers are kept as bits and widened to f32.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

#if HALF
#define MMA_TYPES "f16.f16"
#define PAIR "f16x2"
__device__ __forceinline__ float lo(u32 v) {
  float r;
  asm("{.reg .f16 a,b; mov.b32 {a,b},%1; cvt.f32.f16 %0,a;}" : "=f"(r) : "r"(v));
  return r;
}
__device__ __forceinline__ float hi(u32 v) { return lo(v >> 16); }
#else
#define MMA_TYPES "bf16.bf16"
#define PAIR "bf16x2"
__device__ __forceinline__ float lo(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float hi(u32 v) { return __uint_as_float(v & 0xffff0000u); }
#endif
__device__ __forceinline__ float widen(u16 v) { return lo(v); }
// Two numbers rounded to T, a in the low half.
__device__ __forceinline__ u32 pack(float a, float b) {
  u32 r;
  asm("cvt.rn." PAIR ".f32 %0,%1,%2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
}
__device__ __forceinline__ u16 narrow(float a) { return (u16)pack(a, 0.f); }
__device__ __forceinline__ float rounded(float a) { return lo(pack(a, 0.f)); }
// a * b + c on two numbers at once, one rounding.
__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 r;
  asm("fma.rn." PAIR " %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
__device__ __forceinline__ u32 twice(float a) { return pack(a, a); }

// D(16x8,f32) += A(16x16,row) * B(16x8,col). Lane 4r + t holds a0:(r, 2t..2t+1) a1:(r+8, same) a2:(r, 2t+8..)
// a3:(r+8, 2t+8..), b0:(k 2t..2t+1, column r) b1:(k+8), c0,c1:(r, columns 2t,2t+1) c2,c3:(r+8, same columns).
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Weights are read once: past L1.
__device__ __forceinline__ uint4 stream16(const void* p) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}
__device__ __forceinline__ u32 stream4(const void* p) {
  u32 r;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0,[%1];" : "=r"(r) : "l"(p));
  return r;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}
__device__ __forceinline__ float sum_squares(uint4 v) {
  float a = lo(v.x) * lo(v.x) + hi(v.x) * hi(v.x), b = lo(v.y) * lo(v.y) + hi(v.y) * hi(v.y);
  float c = lo(v.z) * lo(v.z) + hi(v.z) * hi(v.z), d = lo(v.w) * lo(v.w) + hi(v.w) * hi(v.w);
  return (a + b) + (c + d);
}
__device__ __forceinline__ u32 scaled(u32 v, u32 w, float r) { return pack(lo(v) * r * lo(w), hi(v) * r * hi(w)); }
__device__ __forceinline__ uint4 scaled8(uint4 v, uint4 w, float r) {
  return make_uint4(scaled(v.x, w.x, r), scaled(v.y, w.y, r), scaled(v.z, w.z, r), scaled(v.w, w.w, r));
}
