// Facts about arrays, streams and devices that MLX's C++ API knows and mlx-c does not pass on.
#include "descriptor.h"
#include "shim.h"

#include <mutex>
#include <sstream>

#include "mlx/utils.h"

namespace {
template <class T, class F>
int give(T* res, mlx_array a, F fact) {
  return mlxs::guarded([&] { *res = fact(mlx_array_get_(a)); });
}
} // namespace

extern "C" {

int mlxs_array_use_count(size_t* res, mlx_array a) {
  return give(res, a, [](auto& x) { return static_cast<size_t>(mlxs::descriptor(x).use_count()); });
}

int mlxs_array_data_use_count(size_t* res, mlx_array a) {
  return give(res, a, [](auto& x) { return static_cast<size_t>(x.data_shared_ptr().use_count()); });
}

int mlxs_array_buffer(uintptr_t* buffer, int64_t* offset, mlx_array a) {
  return mlxs::guarded([&] {
    auto& x = mlx_array_get_(a);
    bool ready = x.is_available() && x.flags().row_contiguous;
    *buffer = ready ? reinterpret_cast<uintptr_t>(x.data_shared_ptr().get()) : 0;
    *offset = ready ? x.offset() : 0;
  });
}

int mlxs_array_detach(mlx_array a) {
  return mlxs::guarded([&] { mlx_array_get_(a).detach(); });
}

int mlxs_array_status(int* res, mlx_array a) {
  return give(res, a, [](auto& x) {
    if (x.status() == mlx::core::array::Status::unscheduled) {
      return 0;
    }
    return x.is_available() ? 2 : 1;
  });
}

int mlxs_array_is_tracer(bool* res, mlx_array a) {
  return give(res, a, [](auto& x) { return x.is_tracer(); });
}

int mlxs_array_has_primitive(bool* res, mlx_array a) {
  return give(res, a, [](auto& x) { return x.has_primitive(); });
}

int mlxs_array_primitive_name(mlx_string* res, mlx_array a) {
  return mlxs::guarded([&] {
    auto& x = mlx_array_get_(a);
    mlx_string_set_(*res, std::string(x.has_primitive() ? x.primitive().name() : ""));
  });
}

int mlxs_array_primitive_id(uintptr_t* res, mlx_array a) {
  return give(res, a, [](auto& x) { return x.primitive_id(); });
}

int mlxs_array_id(uintptr_t* res, mlx_array a) {
  return give(res, a, [](auto& x) { return x.id(); });
}

int mlxs_array_inputs(mlx_vector_array* res, mlx_array a) {
  return mlxs::guarded([&] { mlx_vector_array_set_(*res, std::as_const(mlx_array_get_(a)).inputs()); });
}

int mlxs_array_tostring(mlx_string* res, mlx_array a, int precision) {
  return mlxs::guarded([&] {
    // the formatter is one for the process, without a lock
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    auto& formatter = mlx::core::get_global_formatter();
    auto before = formatter;
    formatter.capitalize_bool = true;
    formatter.format_options.precision = precision;
    std::ostringstream os;
    try {
      os << mlx_array_get_(a);
    } catch (...) {
      formatter = before;
      throw;
    }
    formatter = before;
    mlx_string_set_(*res, os.str());
  });
}

int mlxs_array_data_size(size_t* res, mlx_array a) {
  return give(res, a, [](auto& x) { return x.data_size(); });
}

int mlxs_stream_equal(bool* res, mlx_stream a, mlx_stream b) {
  return mlxs::guarded([&] { *res = mlx_stream_get_(a) == mlx_stream_get_(b); });
}

int mlxs_device_equal(bool* res, mlx_device a, mlx_device b) {
  return mlxs::guarded([&] { *res = mlx_device_get_(a) == mlx_device_get_(b); });
}

} // extern "C"
