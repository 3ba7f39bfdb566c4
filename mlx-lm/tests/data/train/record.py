"""Records LoRA losses, gradients and Adam steps of Python mlx-lm on golden checkpoints.

usage: record.py GOLDENS_DIR OUT.json   (mlx 0.32.2, mlx-lm 0.32.2; needs oracle.py of the goldens)
"""
import json, os, sys, tempfile
import numpy as np

goldens, out = sys.argv[1], sys.argv[2]
sys.path.insert(0, goldens)
import oracle
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.tuner.trainer import default_loss
from pathlib import Path

SEED = 3
result = []
for case_name, kind in [("llama", "lora"), ("qwen3_moe", "lora"), ("qwen3_5", "lora"), ("llama", "dora")]:
    case = json.load(open(f"{goldens}/families/{case_name}.json"))
    tmp = tempfile.mkdtemp()
    os.system(f"{sys.executable} {goldens}/oracle.py write {tmp} {goldens}/families/{case_name}.json > /dev/null")
    model, _ = load_model(next(Path(tmp).iterdir()))
    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": None} if kind == "lora" else
                          {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}, use_dora=kind == "dora")
    names = sorted(k for k, _ in tree_flatten(model.trainable_parameters()))
    new = [(k, mx.array(oracle.weight(k, v.shape, "F32", SEED))) for k, v in tree_flatten(model.trainable_parameters()) if not k.endswith(".m")]
    model.load_weights(new, strict=False)
    v = case["vocab"]
    ids = (np.arange(2 * 33).reshape(2, 33) * 7 + 3) % v
    ids[1, 20:] = 0
    lengths = [[0, 33], [5, 20]]
    batch = (mx.array(ids.astype(np.int32)), mx.array(lengths))
    step = nn.value_and_grad(model, default_loss)
    (loss, toks), grads = step(model, *batch)
    flat = dict(tree_flatten(grads))
    record = {"case": case_name, "kind": kind, "ids": ids.tolist(), "lengths": lengths, "loss": loss.item(), "tokens": toks.item(),
              "names": names, "grads": {}}
    for k in names:
        g = np.array(flat[k]).reshape(-1)
        stride = max(1, len(g) // 16)
        record["grads"][k] = {"norm": float(np.linalg.norm(g)), "stride": stride, "values": [float(x) for x in g[::stride][:16]]}
    opt = optim.Adam(learning_rate=1e-3)
    losses = []
    for _ in range(6):
        (loss, _), grads = step(model, *batch)
        opt.update(model, grads)
        mx.eval(model.parameters(), opt.state, loss)
        losses.append(loss.item())
    record["adam_losses"] = losses
    result.append(record)
json.dump(result, open(out, "w"), indent=0)
