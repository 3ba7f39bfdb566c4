"""The rows of ops.rs in Python's MLX: python ops.py"""
import time

import mlx.core as mx

mx.set_default_device(mx.cpu)
N = 1000
x, one, w = mx.zeros((16, 16)), mx.array(1.0), mx.ones((16, 16))
ids, v16, v = mx.array([3, 1, 2]), mx.ones((16,)), mx.ones((1024,))
mx.eval(x, one, w, ids, v16, v)


def each(f):
    def run():
        for _ in range(N):
            f()
    return run


def chain():
    y = x
    for _ in range(N):
        y = y + one
    return y


def assign():
    y = mx.array(x)
    for _ in range(N):
        y[3] = v16


def many():
    mx.eval([x + i for i in range(100)])


params = (mx.array(w), w * 0.1)
grad = mx.value_and_grad(lambda p: mx.tanh(x @ p[0]).__matmul__(p[1]).square().mean())


def mlp():
    mx.eval(grad(params))


@mx.compile
def fused(y):
    for _ in range(5):
        y = mx.sigmoid(y * 1.5 + 0.5)
    return y


ROWS = [
    ("add chain", N, chain),
    ("add a scalar", N, each(lambda: x + 1.5)),
    ("reshape", N, each(lambda: x.reshape(4, 64))),
    ("slice x[:, 1:3]", N, each(lambda: x[:, 1:3])),
    ("row x[3]", N, each(lambda: x[3])),
    ("rows x[ids], checked", N, each(lambda: x[ids])),
    ("sum(-1)", N, each(lambda: x.sum(-1))),
    ("matmul", N, each(lambda: x @ w)),
    ("assign x[3] = v", N, assign),
    ("add chain, evaluated", N, lambda: mx.eval(chain())),
    ("eval of 100 outputs (µs)", 1000, many),
    ("value and gradient of an MLP (µs)", 1000, mlp),
    ("compiled chain of 15 (µs)", 1000, lambda: mx.eval(fused(v))),
]

print("| row | Python |\n|---|---:|")
for name, ops, f in ROWS:
    f()
    best, end = float("inf"), time.perf_counter() + 0.4
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        f()
        best = min(best, (time.perf_counter_ns() - start) / ops)
    print(f"| {name} | {best:.1f} |")
