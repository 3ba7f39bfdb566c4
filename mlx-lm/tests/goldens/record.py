"""Records what Python mlx-lm answers for a golden case: `python record.py CASE.json [--model-file MODEL.py]`.

The case holds a config, a prompt and a vocabulary. Its tensors are those of Python's model (kind "native"; a case that
lists tensors keeps them), their values follow from seed and name by the rule of `rule.rs`. The first seed is taken whose
greedy ids are not close calls. `--model-file` names a Python model (Model, ModelArgs) that mlx-lm does not have.
"""
import argparse
import importlib.util
import json
import math
import struct
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, load_model

STEPS, GOLDEN = 12, 0x9E3779B97F4A7C15


def weight(name, shape, seed, init):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = (np.arange(math.prod(shape), dtype=np.uint64) + np.uint64((h + seed * GOLDEN) % 2**64)) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    offset, scale = init or default_init(name, shape)
    u = (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return (offset + scale * u).astype(np.float32).reshape(shape)


def default_init(name, shape):
    low = name.lower()
    if len(shape) >= 2:
        return 0.0, 1.5 / math.sqrt(shape[1] * shape[2] if len(shape) == 3 and "conv" in low else shape[-1])
    if name.endswith("bias"):
        return 0.0, 0.2
    if name.endswith("A_log"):
        return 0.5, 0.5
    norm = "norm" in low or "ln_" in low or name.endswith(("scale", "scalar", ".D", "_gain"))
    return (1.0, 0.2) if norm else (0.0, 0.2)


def load(case, model_file):
    with tempfile.TemporaryDirectory() as d:
        config = dict(case["config"])
        if model_file:
            Path(d, "model.py").write_text(Path(model_file).read_text())
            config["model_file"] = "model.py"
        Path(d, "config.json").write_text(json.dumps(config))
        header, blobs, at = {}, [], 0
        for name, shape, _, *init in case["tensors"]:
            blob = weight(name, shape, case["seed"], init[0] if init else None).tobytes()
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(blob)]}
            blobs.append(blob)
            at += len(blob)
        head = json.dumps(header).encode()
        Path(d, "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blobs))
        return load_model(Path(d), strict=True, trust_remote_code=bool(model_file))[0]


def tensors(case, model_file):
    if model_file:
        spec = importlib.util.spec_from_file_location("model", model_file)
        module = importlib.util.module_from_spec(spec)
        sys.modules["model"] = module
        spec.loader.exec_module(module)
        classes = module.Model, module.ModelArgs
    else:
        classes = _get_classes(case["config"])
    model = classes[0](classes[1].from_dict(case["config"]))
    return [[name, list(a.shape), "F32"] for name, a in tree_flatten(model.parameters())]


def floats(a):
    return [float(np.format_float_positional(x, unique=True, trim="-")) for x in np.asarray(a, np.float32).reshape(-1)]


def logsumexp(a):
    a = np.asarray(a, np.float64)
    return float(np.float32(a.max() + math.log(np.exp(a - a.max()).sum())))


def evaluate(model, case):
    ids = case["prompt"]
    run = lambda ids, cache: np.array(model(mx.array([ids]), cache=cache)[0].astype(mx.float32))
    cache = make_prompt_cache(model)
    full = run(ids, cache)
    greedy, rows, gaps, y = [], [], [], full[-1]
    for k in range(STEPS + 1):
        top = np.sort(y)[-2:]
        gaps.append(float(top[1] - top[0]))
        greedy.append(int(y.argmax()))
        if k < STEPS:
            y = run([greedy[-1]], cache)[-1]
            rows.append(y)
    v = full.shape[-1]
    columns = [i * (v // 64) for i in range(64)] if v > 64 else list(range(v))
    prefill = [floats(r if v <= 256 else r[columns]) for r in full[-2:]]
    starts, lengths = [0, 5], [len(ids) - 11, len(ids) - 5]
    single = [[int(t) for t, _ in generate_step(mx.array(ids[s:s + n]), model, max_tokens=STEPS + 1)] for s, n in zip(starts, lengths)]
    return {
        "prefill": prefill, "argmax": [int(r.argmax()) for r in full[-2:]], "logsumexp": [logsumexp(r) for r in full[-2:]],
        "greedy": greedy,
        "steps": {str(k): floats(rows[k - 1][columns]) for k in (1, 6, 12)},
        "step_logsumexp": {str(k): logsumexp(rows[k - 1]) for k in (1, 6, 12)},
        "max_abs": float(np.abs(full[-2:]).max()), "min_gap": min(gaps),
        "batch": {"lengths": lengths, "starts": starts, "greedy": single},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--model-file")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    case = json.loads(args.case.read_text())
    if not case.get("tensors"):
        case["tensors"] = tensors(case, args.model_file)
    for case["seed"] in range(case["seed"], case["seed"] + 50):
        golden = evaluate(load(case, args.model_file), case)
        if golden["min_gap"] >= 0.002 * golden["max_abs"]:
            break
    else:
        sys.exit("no seed gives clear greedy ids: is the toy model too small?")
    case["golden"] = golden
    rows = ",\n".join(json.dumps(t) for t in case.pop("tensors"))
    args.case.write_text(json.dumps(case)[:-1] + ',\n"tensors": [\n' + rows + "]}\n")
    print(f"seed {case['seed']}, greedy {golden['greedy']}")


if __name__ == "__main__":
    main()
