"""Records what Python mlx-lm does with optimizers, adapter targets, conversion and adapter files on golden checkpoints.

usage: record_more.py GOLDENS_DIR OUT_DIR   (mlx 0.32.2, mlx-lm 0.32.2; needs oracle.py of the goldens)
Writes more.json and python_adapter/ (adapters trained by `mlx_lm lora`'s own trainer).
"""
import contextlib, glob, io, json, os, subprocess, sys, tempfile, types
from pathlib import Path
import numpy as np

goldens, out = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, goldens)
import oracle
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.convert import convert
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers
from mlx_lm.utils import load_model, save_config

mx.set_default_device(mx.cpu)


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def checkpoint(case):
    tmp = tempfile.mkdtemp()
    subprocess.run([sys.executable, f"{goldens}/oracle.py", "write", tmp, f"{goldens}/families/{case}.json"],
                   check=True, stdout=subprocess.DEVNULL)
    return next(Path(tmp).iterdir())


LORA = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": None}


def prepared(path):
    model, _ = load_model(path)
    model.freeze()
    linear_to_lora_layers(model, 2, LORA)
    params = tree_flatten(model.trainable_parameters())
    model.load_weights([(k, mx.array(oracle.weight(k, v.shape, "F32", 3))) for k, v in params], strict=False)
    return model


# optimizers and schedules
llama = checkpoint("llama")
vocab = json.load(open(f"{goldens}/families/llama.json"))["vocab"]
ids = (np.arange(2 * 33).reshape(2, 33) * 7 + 3) % vocab
ids[1, 20:] = 0
batch = (mx.array(ids.astype(np.int32)), mx.array([[0, 33], [5, 20]]))
runs = []
for name, options, schedule in [
    ("adam", {"betas": [0.8, 0.9], "bias_correction": True}, {"name": "cosine_decay", "arguments": [1e-2, 6, 1e-4], "warmup": 2, "warmup_init": 1e-4}),
    ("adamw", {"weight_decay": 0.1, "eps": 1e-6}, {"name": "linear_schedule", "arguments": [1e-2, 1e-3, 4]}),
    ("muon", {"momentum": 0.9, "ns_steps": 3}, {"name": "exponential_decay", "arguments": [1e-2, 0.7]}),
    ("sgd", {"momentum": 0.9, "nesterov": True}, {"name": "step_decay", "arguments": [1e-2, 0.5, 2], "warmup": 3}),
    ("adafactor", {"relative_step": False, "beta_1": 0.9}, {"name": "cosine_decay", "arguments": [1e-2, 100]}),
    ("adafactor", {}, None),
]:
    model = prepared(llama)
    opt = {"adam": optim.Adam, "adamw": optim.AdamW, "muon": optim.Muon, "sgd": optim.SGD, "adafactor": optim.Adafactor}[name](
        learning_rate=build_schedule(schedule) if schedule else 1e-2, **options)
    step = nn.value_and_grad(model, default_loss)
    losses, rates = [], []
    for _ in range(8):
        (loss, _), grads = step(model, *batch)
        opt.update(model, grads)
        mx.eval(model.parameters(), opt.state, loss)
        losses.append(loss.item())
        rates.append(opt.learning_rate.item())
    runs.append({"optimizer": name, "options": options, "schedule": schedule, "losses": losses, "rates": rates})

# which parameters an adapter of all layers has, by family
targets = {}
for file in sorted(glob.glob(f"{goldens}/families/*.json")):
    case = Path(file).stem
    if "." in case:
        continue
    try:
        model, _ = load_model(checkpoint(case))
        model.freeze()
        linear_to_lora_layers(model, -1, LORA)
    except (Exception, SystemExit) as e:
        print(case, repr(e)[:100])
        continue
    names = sorted(k for k, _ in tree_flatten(model.trainable_parameters()))
    targets[case] = [len(names), fnv("\n".join(names).encode())]

# which layers `convert -q --q-group-size 32` packs, by family: path, bits, group size
from mlx_lm.utils import quantize_model

packed = {}
for case in targets:
    try:
        model, config = load_model(checkpoint(case))
        with contextlib.redirect_stdout(io.StringIO()):
            model, _ = quantize_model(model, {}, 32, 4)
    except Exception as e:
        print(case, repr(e)[:100])
        continue
    names = sorted(f"{p} {m.bits} {m.group_size}" for p, m in model.named_modules() if hasattr(m, "bits"))
    packed[case] = [len(names), fnv("\n".join(names).encode())]
    if os.environ.get("NAMES"):
        open(f"{os.environ['NAMES']}/{case}", "w").write("\n".join(names))

# conversion: a hash of the bytes of each tensor; the checkpoints have no tokenizer
module = sys.modules["mlx_lm.convert"]
module.load = lambda path, **_: (lambda m: (m[0], types.SimpleNamespace(save_pretrained=lambda _: None), m[1]))(load_model(Path(path), lazy=True))
conversions = []
for case, options in [
    ("llama", {"quantize": True}),
    ("llama", {"quantize": True, "q_bits": 8, "q_group_size": 32, "dtype": "bfloat16"}),
    ("llama", {"quantize": True, "quant_predicate": "mixed_3_6", "q_group_size": 32}),
    ("llama", {"quantize": True, "quant_predicate": "mixed_2_6", "q_group_size": 64}),
    ("llama", {"dtype": "float16"}),
    ("llama.q4", {"dequantize": True}),
    ("qwen3_moe", {"quantize": True, "q_bits": 3, "q_group_size": 32}),
]:
    to = tempfile.mkdtemp() + "/out"
    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(checkpoint(case)), to, **options)
    tensors = {}
    for file in glob.glob(to + "/*.safetensors"):
        raw = open(file, "rb").read()
        n = int.from_bytes(raw[:8], "little")
        for name, t in json.loads(raw[8 : 8 + n]).items():
            if name != "__metadata__":
                a, b = t["data_offsets"]
                tensors[name] = [t["dtype"], t["shape"], fnv(raw[8 + n + a : 8 + n + b])]
    config = json.load(open(to + "/config.json"))
    index = json.load(open(to + "/model.safetensors.index.json"))["metadata"]
    conversions.append({"case": case, "options": options, "quantization": config.get("quantization"),
                        "index": index, "tensors": tensors})

# adapters that Python trained, and what the model then gives
model, _ = load_model(llama)
mx.random.seed(0)
model.freeze()
p = {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
linear_to_lora_layers(model, 2, p)
folder = out / "python_adapter"
folder.mkdir(parents=True, exist_ok=True)
save_config({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": p, "model": "llama", "seed": 0}, folder / "adapter_config.json")
rows = [([int(x) for x in r], 0) for r in ids]
args = TrainingArgs(batch_size=2, iters=5, steps_per_report=5, max_seq_length=64, adapter_file=str(folder / "adapters.safetensors"))
with contextlib.redirect_stdout(io.StringIO()):
    train(model, optim.Adam(learning_rate=1e-2), rows, args=args)
model.eval()
prompt = [1, 5, 9, 2]
logits = model(mx.array([prompt]))[0, -1]
json.dump({"optimizers": runs, "targets": targets, "packed": packed, "conversions": conversions,
           "adapter": {"prompt": prompt, "logits": [float(x) for x in logits]}}, open(out / "more.json", "w"), indent=0)
