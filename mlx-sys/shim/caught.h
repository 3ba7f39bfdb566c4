// The text of the exception being handled. The build rewrites mlx-c's `catch (std::exception& e)` to
// `catch (...)` and its `e.what()` to this, since MLX also throws a bare string literal, which would
// otherwise end the process. Force-included into every mlx-c source.
#pragma once
/// Only inside a catch block. The pointer lives until the next call on this thread.
const char* mlxs_caught() noexcept;
