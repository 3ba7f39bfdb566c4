// An MLX primitive whose CPU kernel is a C function pointer: the door through which Rust kernels take
// part in lazy graphs. Derivatives, vmap and other devices use a fallback that builds plain operations.
#include "shim.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/scheduler.h"
#include "mlx/transforms.h"

using namespace mlx::core;

extern "C" {
/// One operand while the kernel runs; strides count elements.
typedef struct {
  void* data;
  mlx_dtype dtype;
  int ndim;
  const int* shape;
  const int64_t* strides;
} mlxs_view;

/// 0, or a code that ends the evaluation with an error.
typedef int (*mlxs_cpu_kernel)(
    const mlxs_view* inputs, size_t n_inputs, const mlxs_view* outputs, size_t n_outputs, void* payload);
}

namespace {
using Fallback = std::function<std::vector<array>(const std::vector<array>&)>;

/// What the worker thread needs of one operand; arrays themselves stay on the building thread.
struct Operand {
  char* data;
  mlx_dtype dtype;
  size_t item;
  Shape shape;
  Strides strides;

  explicit Operand(const array& a)
      : data(const_cast<char*>(a.data<char>())),
        dtype(mlx_dtype_to_c(a.dtype())),
        item(a.itemsize()),
        shape(a.shape()),
        strides(a.strides()) {}

  mlxs_view view() const {
    return {data, dtype, static_cast<int>(shape.size()), shape.data(), strides.data()};
  }
};

/// Copies the elements of `from` in row-major order to `to`.
void copy_rows(const Operand& from, char* to) {
  int rank = static_cast<int>(from.shape.size());
  int inner = rank ? from.shape[rank - 1] : 1;
  int64_t step = rank ? from.strides[rank - 1] * static_cast<int64_t>(from.item) : 0;
  for (auto n : from.shape) {
    if (n == 0) {
      return;
    }
  }
  std::vector<int> at(rank, 0);
  for (;;) {
    const char* p = from.data;
    for (int d = 0; d + 1 < rank; d++) {
      p += at[d] * from.strides[d] * static_cast<int64_t>(from.item);
    }
    if (step == static_cast<int64_t>(from.item)) {
      std::memcpy(to, p, inner * from.item);
      to += inner * from.item;
    } else {
      for (int i = 0; i < inner; i++, p += step, to += from.item) {
        std::memcpy(to, p, from.item);
      }
    }
    int d = rank - 2;
    while (d >= 0 && ++at[d] == from.shape[d]) {
      at[d--] = 0;
    }
    if (d < 0) {
      return;
    }
  }
}

class CpuOp : public Primitive {
 public:
  CpuOp(Stream s, std::string name, mlxs_cpu_kernel kernel, std::shared_ptr<void> payload, uint64_t strided, Fallback fallback)
      : Primitive(s),
        name_(std::move(name)),
        kernel_(kernel),
        payload_(std::move(payload)),
        strided_(strided),
        fallback_(std::move(fallback)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    auto& encoder = cpu::get_command_encoder(stream());
    std::vector<Operand> operands;
    operands.reserve(inputs.size() + outputs.size());
    for (size_t i = 0; i < inputs.size(); i++) {
      auto& x = inputs[i];
      if (x.flags().row_contiguous || (i < 64 && (strided_ >> i & 1))) {
        operands.emplace_back(x);
        continue;
      }
      array copy(x.shape(), x.dtype(), nullptr, {});
      copy.set_data(allocator::malloc(copy.nbytes()));
      encoder.set_input_array(x);
      encoder.set_output_array(copy);
      encoder.dispatch([from = Operand(x), to = copy.data<char>()] { copy_rows(from, to); });
      operands.emplace_back(copy);
      encoder.add_temporary(std::move(copy));
    }
    for (auto& y : outputs) {
      y.set_data(allocator::malloc(y.nbytes()));
      operands.emplace_back(y);
    }
    for (auto& x : inputs) {
      encoder.set_input_array(x);
    }
    for (auto& y : outputs) {
      encoder.set_output_array(y);
    }
    // not counted as a task of its own: MLX lets no more than ten tasks (of ten dispatches) wait, and what builds the graph
    // would wake up for each
    scheduler::enqueue(stream(), [operands = std::move(operands), n = inputs.size(), kernel = kernel_, payload = payload_, name = name_] {
      std::vector<mlxs_view> views;
      views.reserve(operands.size());
      for (auto& x : operands) {
        views.push_back(x.view());
      }
      if (int code = kernel(views.data(), n, views.data() + n, views.size() - n, payload.get())) {
        throw std::runtime_error("[" + name + "] the kernel failed with code " + std::to_string(code));
      }
    });
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("[" + name_ + "] runs on the CPU only");
  }

  std::vector<array> vjp(
      const std::vector<array>& primals,
      const std::vector<array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<array>&) override {
    return mlx::core::vjp(of(primals, argnums), chosen(primals, argnums), cotangents).second;
  }

  std::vector<array> jvp(
      const std::vector<array>& primals,
      const std::vector<array>& tangents,
      const std::vector<int>& argnums) override {
    return mlx::core::jvp(of(primals, argnums), chosen(primals, argnums), tangents).second;
  }

  std::pair<std::vector<array>, std::vector<int>> vmap(
      const std::vector<array>& inputs, const std::vector<int>& axes) override {
    auto outputs = mlx::core::vmap(fallback(), axes)(inputs);
    std::vector<int> out_axes(outputs.size(), 0);
    return {std::move(outputs), std::move(out_axes)};
  }

  std::vector<Shape> output_shapes(const std::vector<array>& inputs) override {
    std::vector<Shape> res;
    for (auto& y : fallback()(inputs)) {
      res.push_back(y.shape());
    }
    return res;
  }

  const char* name() const override {
    return name_.c_str();
  }

 private:
  const Fallback& fallback() const {
    if (!fallback_) {
      throw std::runtime_error("[" + name_ + "] has no plain form to differentiate, vectorise or reshape");
    }
    return fallback_;
  }

  /// The fallback as a function of the inputs `argnums` alone.
  Fallback of(const std::vector<array>& primals, const std::vector<int>& argnums) const {
    return [f = fallback(), primals, argnums](const std::vector<array>& args) {
      auto all = primals;
      for (size_t i = 0; i < argnums.size(); i++) {
        all[argnums[i]] = args[i];
      }
      return f(all);
    };
  }

  static std::vector<array> chosen(const std::vector<array>& primals, const std::vector<int>& argnums) {
    std::vector<array> res;
    for (int i : argnums) {
      res.push_back(primals[i]);
    }
    return res;
  }

  std::string name_;
  mlxs_cpu_kernel kernel_;
  std::shared_ptr<void> payload_;
  uint64_t strided_;
  Fallback fallback_;
};
} // namespace

/// Outputs of `kernel` on `inputs`, lazily. Inputs arrive row-contiguous unless bit i of `strided` is set.
/// `payload` belongs to the call from the start, also when it fails. A null `fallback` is allowed on the CPU.
extern "C" int mlxs_cpu_op(
    mlx_vector_array* res,
    const char* name,
    mlx_vector_array inputs,
    const int* const* shapes,
    const size_t* ndims,
    const mlx_dtype* dtypes,
    size_t n_outputs,
    mlxs_cpu_kernel kernel,
    void* payload,
    void (*dtor)(void*),
    uint64_t strided,
    mlx_closure fallback,
    mlx_stream stream) {
  return mlxs::guarded([&] {
    std::shared_ptr<void> owned(payload, [dtor](void* p) {
      if (dtor) {
        dtor(p);
      }
    });
    auto plain = fallback.ctx ? mlx_closure_get_(fallback) : Fallback();
    auto s = mlx_stream_get_(stream);
    auto& args = mlx_vector_array_get_(inputs);
    if (s.device != Device::cpu) {
      if (!plain) {
        throw std::runtime_error(std::string("[") + name + "] runs on the CPU only");
      }
      mlx_vector_array_set_(*res, plain(args));
      return;
    }
    auto primitive = std::make_shared<CpuOp>(s, name, kernel, std::move(owned), strided, std::move(plain));
    mlx_vector_array_set_(
        *res,
        array::make_arrays(
            mlxs::shapes(shapes, ndims, n_outputs), mlxs::dtypes(dtypes, n_outputs), std::move(primitive), args));
  });
}
