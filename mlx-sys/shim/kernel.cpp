// CUDA kernels that were compiled ahead of time; the C++ API has them and mlx-c does not.
#include "shim.h"

#include <functional>
#include <string>
#include <tuple>
#include <variant>

#include "mlx/fast.h"

extern "C" {
/// A scalar argument: `kind` 0 bool, 1 int, 2 float.
typedef struct {
  int kind;
  int integer;
  float real;
} mlxs_scalar;

/// The hash of a text by which MLX tells loaded kernel modules apart.
size_t mlxs_text_hash(const char* text, size_t len) {
  return std::hash<std::string>{}(std::string(text, len));
}

int mlxs_precompiled_cuda_kernel(
    mlx_vector_array* res,
    const char* name,
    const char* image,
    size_t image_len,
    mlx_vector_array inputs,
    const int* const* shapes,
    const size_t* ndims,
    const mlx_dtype* dtypes,
    size_t n_outputs,
    const mlxs_scalar* scalars,
    size_t n_scalars,
    const int* grid,
    const int* threadgroup,
    int shared_memory,
    const float* init_value,
    bool ensure_row_contiguous,
    mlx_stream stream) {
  return mlxs::guarded([&] {
    std::vector<std::variant<bool, int, float>> args;
    for (size_t i = 0; i < n_scalars; i++) {
      switch (scalars[i].kind) {
        case 0: args.emplace_back(scalars[i].integer != 0); break;
        case 1: args.emplace_back(scalars[i].integer); break;
        default: args.emplace_back(scalars[i].real);
      }
    }
    mlx_vector_array_set_(
        *res,
        mlx::core::fast::precompiled_cuda_kernel(
            name,
            std::string(image, image_len),
            mlx_vector_array_get_(inputs),
            mlxs::shapes(shapes, ndims, n_outputs),
            mlxs::dtypes(dtypes, n_outputs),
            args,
            {grid[0], grid[1], grid[2]},
            {threadgroup[0], threadgroup[1], threadgroup[2]},
            shared_memory,
            init_value ? std::optional<float>(*init_value) : std::nullopt,
            ensure_row_contiguous,
            mlx_stream_get_(stream)));
  });
}
}
