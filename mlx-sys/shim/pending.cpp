// Arrays that an evaluation is about to compute, remembered without keeping them alive or from being
// donated. MLX marks arrays of a failed evaluation as evaluated, with whatever their buffers held; here they
// can be marked as not scheduled again, which without a primitive is an error at every later evaluation.
#include "descriptor.h"
#include "shim.h"

#include <set>
#include <unordered_set>
#include <vector>

using namespace mlx::core;

namespace {
using Shared = std::decay_t<decltype(mlxs::descriptor(std::declval<const array&>()))>;

struct Pending {
  std::vector<std::weak_ptr<Shared::element_type>> arrays;
  std::set<Stream> streams;
};

void add(Pending& p, const array& a) {
  p.arrays.emplace_back(mlxs::descriptor(a));
  if (a.has_primitive()) {
    p.streams.insert(a.primitive().stream());
  }
}

void collect(Pending& p, const std::vector<array>& outputs) {
  std::unordered_set<uintptr_t> seen;
  std::vector<const array*> stack;
  auto visit = [&](const array& a) {
    if (a.status() == array::Status::unscheduled && seen.insert(a.id()).second) {
      stack.push_back(&a);
    }
  };
  for (auto& a : outputs) {
    visit(a);
  }
  while (!stack.empty()) {
    auto& a = *stack.back();
    stack.pop_back();
    add(p, a);
    for (auto& s : a.siblings()) {
      if (seen.insert(s.id()).second) {
        add(p, s);
      }
    }
    for (auto& in : a.inputs()) {
      visit(in);
    }
  }
}
} // namespace

extern "C" {

/// Remembers `outputs`, with `walk` also all arrays that they still need.
int mlxs_pending_new(void** res, mlx_vector_array outputs, bool walk) {
  return mlxs::guarded([&] {
    auto p = std::make_unique<Pending>();
    auto& list = mlx_vector_array_get_(outputs);
    if (walk) {
      collect(*p, list);
    } else {
      for (auto& a : list) {
        add(*p, a);
      }
    }
    *res = p.release();
  });
}

/// Whether any of them lives and is not computed yet.
bool mlxs_pending_waits(const void* pending) {
  for (auto& weak : static_cast<const Pending*>(pending)->arrays) {
    if (auto a = weak.lock(); a && a->status == array::Status::unscheduled) {
      return true;
    }
  }
  return false;
}

/// Waits for the streams that compute them; 1 if anything on these failed.
int mlxs_pending_wait(const void* pending) {
  return mlxs::guarded([&] {
    for (auto& s : static_cast<const Pending*>(pending)->streams) {
      synchronize(s);
    }
  });
}

/// Makes those that live and were taken for computed an error at every later evaluation.
void mlxs_pending_poison(const void* pending) {
  for (auto& weak : static_cast<const Pending*>(pending)->arrays) {
    auto a = weak.lock();
    if (a && a->status != array::Status::unscheduled && !a->primitive) {
      a->status = array::Status::unscheduled;
      a->inputs.clear();
    }
  }
}

void mlxs_pending_free(void* pending) {
  delete static_cast<Pending*>(pending);
}

} // extern "C"
