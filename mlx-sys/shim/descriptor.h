// The private half of an array: the shared descriptor that handles, graph edges and siblings refer to.
#pragma once
#include "mlx/mlx.h"

namespace mlxs {
namespace {
// `array_desc_` is private; an explicit instantiation may name private members, which is what this leans on.
struct Descriptor {
  friend constexpr auto member(Descriptor);
};
template <auto pointer>
struct Expose {
  friend constexpr auto member(Descriptor) {
    return pointer;
  }
};
template struct Expose<&mlx::core::array::array_desc_>;

inline const auto& descriptor(const mlx::core::array& x) {
  return x.*member(Descriptor());
}
} // namespace
} // namespace mlxs
