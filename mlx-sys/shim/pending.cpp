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

struct Entry {
  std::weak_ptr<Shared::element_type> array;
  /// Belongs to a function that is being traced, which still needs its graph.
  bool traced;
};

struct Pending {
  std::vector<Entry> arrays;
  std::set<Stream> streams;
};

void add(Pending& p, const array& a) {
  p.arrays.push_back({mlxs::descriptor(a), a.is_tracer()});
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

/// Takes the way to its value from an array and from those computed with it.
void cut(Shared::element_type& a) {
  auto siblings = std::move(a.siblings);
  a.siblings.clear();
  a.position = 0;
  a.primitive = nullptr;
  a.inputs.clear();
  a.status = array::Status::unscheduled;
  for (auto& s : siblings) {
    auto& other = *mlxs::descriptor(s);
    other.siblings.clear();
    other.position = 0;
    other.primitive = nullptr;
    other.inputs.clear();
    other.status = array::Status::unscheduled;
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
  for (auto& entry : static_cast<const Pending*>(pending)->arrays) {
    if (auto a = entry.array.lock(); a && a->status == array::Status::unscheduled) {
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

/// Makes those that live an error at every later evaluation. One that still has its primitive loses it: a part of it
/// may have run already, on buffers that were given to it. A traced one is computed, and fails, again.
void mlxs_pending_poison(const void* pending) {
  for (auto& entry : static_cast<const Pending*>(pending)->arrays) {
    if (auto a = entry.array.lock()) {
      if (entry.traced) {
        a->status = array::Status::unscheduled;
      } else {
        cut(*a);
      }
    }
  }
}

void mlxs_pending_free(void* pending) {
  delete static_cast<Pending*>(pending);
}

} // extern "C"
