// Stands in for <format> where the C++ library has none (GCC 12 and older). mlx-c formats labels with
// plain "{}" placeholders only, so that is all this does. Force-included into every mlx-c source.
#pragma once
#if __has_include(<format>)
#include <format>
#endif
#include <version>
#if !defined(__cpp_lib_format)
#include <sstream>
#include <string>
#include <string_view>

namespace std {
namespace mlxs {
inline void format_to(ostringstream& out, string_view text) {
  out << text;
}
template <class First, class... Rest>
void format_to(ostringstream& out, string_view text, const First& first, const Rest&... rest) {
  auto at = text.find("{}");
  if (at == string_view::npos) {
    out << text;
    return;
  }
  out << text.substr(0, at) << first;
  format_to(out, text.substr(at + 2), rest...);
}
} // namespace mlxs

template <class... Args>
string format(string_view text, const Args&... args) {
  ostringstream out;
  mlxs::format_to(out, text, args...);
  return out.str();
}
} // namespace std
#endif
