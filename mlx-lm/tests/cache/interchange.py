"""Prompt caches of Python mlx-lm: `save MODEL FILE BITS MAX IDS` or `go_on MODEL FILE BITS N IDS` (prints the greedy ids)."""
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)
verb, path, file, bits, n, ids = sys.argv[1:]
model, _ = load_model(Path(path))
bits, n, ids = int(bits) or None, int(n), mx.array([int(i) for i in ids.split(",")])
how = dict(kv_bits=bits, kv_group_size=32, quantized_kv_start=0)
if verb == "save":
    cache = make_prompt_cache(model, n or None)
    for _ in generate_step(ids, model, max_tokens=0, prompt_cache=cache, **how):
        pass
    save_prompt_cache(file, cache, {"model": path, "tokenizer_config": "{}"})
else:
    cache = load_prompt_cache(file)
    print(",".join(str(t) for t, _ in generate_step(ids, model, max_tokens=n, prompt_cache=cache, **how)))
