// Takes the place of mlx-c's error.cpp, which hands exception text to vsnprintf as the *format*: a '%'
// in a file name, a tensor name or an einsum string crashed the process. Here the text is only text.
#include "mlx/c/error.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "caught.h"

namespace {
void print_and_exit(const char* message, void*) {
  std::fprintf(stderr, "MLX error: %s\n", message);
  std::exit(1);
}

std::shared_ptr<void> handler_data;
mlx_error_handler_func handler = print_and_exit;
} // namespace

const char* mlxs_caught() noexcept {
  thread_local std::string text;
  try {
    std::rethrow_exception(std::current_exception());
  } catch (const std::exception& e) {
    try {
      text = e.what();
    } catch (...) {
      return "out of memory";
    }
  } catch (const char* literal) {
    return literal;
  } catch (...) {
    return "an exception of an unknown type";
  }
  return text.c_str();
}

extern "C" void mlx_set_error_handler(mlx_error_handler_func f, void* data, void (*dtor)(void*)) {
  if (dtor) {
    handler_data = std::shared_ptr<void>(data, dtor);
  } else {
    handler_data = std::shared_ptr<void>(data, [](void*) {});
  }
  handler = f ? f : print_and_exit;
}

extern "C" void _mlx_error(const char*, const int, const char* text, ...) {
  handler(text, handler_data.get());
}
