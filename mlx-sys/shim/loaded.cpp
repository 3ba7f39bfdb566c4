// Which libraries the process really runs on: the loader may have been told to take others than those of
// the build.
#include "shim.h"

#include <dlfcn.h>
#include <string>

extern "C" {

int mlxs_loaded_mlx(mlx_string* res) {
  return mlxs::guarded([&] {
    Dl_info info;
    if (!dladdr(reinterpret_cast<const void*>(&mlx::core::version), &info) || !info.dli_fname) {
      throw std::runtime_error("the loader does not say where libmlx lies");
    }
    mlx_string_set_(*res, std::string(info.dli_fname));
  });
}

int mlxs_loaded_blas(mlx_string* res) {
  return mlxs::guarded([&] {
    using Config = const char* (*)();
    auto config = reinterpret_cast<Config>(dlsym(RTLD_DEFAULT, "scipy_openblas_get_config"));
    if (!config) {
      config = reinterpret_cast<Config>(dlsym(RTLD_DEFAULT, "openblas_get_config"));
    }
    mlx_string_set_(*res, std::string(config ? config() : ""));
  });
}

} // extern "C"
