"""Writes train.jsonl, valid.jsonl and test.jsonl: questions about sums, answered in a fixed odd format.

usage: make_odd_format.py DIR
"""
import json, random, sys
from pathlib import Path

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
rng = random.Random(0)
things = ["apples", "books", "cats", "doors", "eggs", "forks", "goats", "hats", "inks", "jars", "kites", "lamps"]
rows = []
for _ in range(240):
    a, b, t = rng.randint(2, 40), rng.randint(2, 40), rng.choice(things)
    q = rng.choice([f"I have {a} {t} and get {b} more. How many are there?", f"What is {a} {t} plus {b} {t}?"])
    rows.append({"prompt": q, "completion": f"[[{t.upper()}|{a}+{b}|over and out]]"})
for name, part in [("train", rows[:200]), ("valid", rows[200:220]), ("test", rows[220:])]:
    with open(out / f"{name}.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in part)
