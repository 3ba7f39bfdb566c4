// What the shim's sources share: mlx-c's handle conversions and the one way to report a failure.
#pragma once
#include <stdint.h>
#include <utility>

#include "caught.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mlxs {
/// 0, or 1 after the error handler was told what went wrong.
template <class F>
int guarded(F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (...) {
    mlx_error(mlxs_caught());
    return 1;
  }
}

/// `n` shapes, given as pointers and lengths.
inline std::vector<mlx::core::Shape> shapes(const int* const* dims, const size_t* ndims, size_t n) {
  std::vector<mlx::core::Shape> res;
  res.reserve(n);
  for (size_t i = 0; i < n; i++) {
    res.emplace_back(dims[i], dims[i] + ndims[i]);
  }
  return res;
}

/// `n` dtypes; an id that is none throws, where mlx-c's table would be read past its end.
inline std::vector<mlx::core::Dtype> dtypes(const mlx_dtype* ids, size_t n) {
  std::vector<mlx::core::Dtype> res;
  res.reserve(n);
  for (size_t i = 0; i < n; i++) {
    if (static_cast<unsigned>(ids[i]) > MLX_COMPLEX64) {
      throw std::invalid_argument("not a dtype: " + std::to_string(ids[i]));
    }
    res.push_back(mlx_dtype_to_cpp(ids[i]));
  }
  return res;
}
} // namespace mlxs
