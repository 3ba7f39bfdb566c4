"""Times LoRA training steps of Python mlx-lm, as `mlx-lm benchmark --train` does.

usage: train.py (--model DIR | --config FILE [--bits N] [--dtype bfloat16]) [-b 2] [-p 256] [-n 10] [--num-layers 16]
                [--grad-checkpoint] [--no-compile]
"""
import argparse, json, time
from functools import partial
from pathlib import Path
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.trainer import default_loss, grad_checkpoint
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import _get_classes, load_model

a = argparse.ArgumentParser()
a.add_argument("--model")
a.add_argument("--config")
a.add_argument("--bits", type=int)
a.add_argument("--dtype", default="bfloat16")
a.add_argument("-b", type=int, default=2)
a.add_argument("-p", type=int, default=256)
a.add_argument("-n", type=int, default=10)
a.add_argument("--num-layers", type=int, default=16)
a.add_argument("--grad-checkpoint", action="store_true")
a.add_argument("--no-compile", action="store_true")
a.add_argument("--device", choices=["cpu", "gpu"])
a = a.parse_args()
if a.device:
    mx.set_default_device(mx.cpu if a.device == "cpu" else mx.gpu)
if a.model:
    model, config = load_model(Path(a.model))
else:
    config = json.load(open(a.config))
    Model, Args = _get_classes(config)
    model = Model(Args.from_dict(config))
    model.set_dtype(getattr(mx, a.dtype))
    if a.bits:
        nn.quantize(model, 64, a.bits)
    mx.eval(model.parameters())
mx.random.seed(0)
model.freeze()
linear_to_lora_layers(model, min(a.num_layers, len(model.layers)), {"rank": 8, "scale": 20.0, "dropout": 0.0})
if a.grad_checkpoint:
    grad_checkpoint(model.layers[0])
model.train()
vocab = config.get("vocab_size") or config["text_config"]["vocab_size"]
ids = mx.array(np.random.RandomState(0).randint(0, vocab, (a.b, a.p + 1)).astype(np.int32))
lengths = mx.array([[0, a.p + 1]] * a.b)
opt = optim.Adam(learning_rate=1e-5)
value_and_grad = nn.value_and_grad(model, default_loss)
state = [model.state, opt.state, mx.random.state]


def step(ids, lengths):
    (loss, tokens), grads = value_and_grad(model, ids, lengths)
    opt.update(model, grads)
    return loss, tokens


if not a.no_compile:
    step = partial(mx.compile, inputs=state, outputs=state)(step)
seconds = []
for i in range(a.n + 2):
    if i == 2:
        mx.reset_peak_memory()
    start = time.perf_counter()
    loss, tokens = step(ids, lengths)
    mx.eval(state, loss, tokens)
    if i >= 2:
        seconds.append(time.perf_counter() - start)
tokens = a.b * a.p
print(json.dumps({"tokens_per_second": tokens * a.n / sum(seconds), "best_tokens_per_second": tokens / min(seconds),
                  "peak_memory_gb": mx.get_peak_memory() / 1e9, "loss": loss.item()}))
