"""Builds the tiny tokenizers of tokenizers/ and records what Python makes of them: python record_tokenizers.py

Run with tokenizers 0.23.3, sentencepiece 0.2.3, transformers 5.23.0, mlx-lm 0.32.2.
"""
import json
import pathlib
import random
import tempfile

import sentencepiece
from mlx_lm.tokenizer_utils import load
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
OUT = HERE / "tokenizers"
CORPUS = ["The quick brown fox jumps over the lazy dog. " * 3, "def add(a, b):\n    return a + b\n" * 3, "Naïve café in Köln, 12 345 guests; it's fun, isn't it?\n" * 3, "日本語のテキスト と 中文 и русский текст. 🙂🚀 " * 3, "hello hello world worlds wording " * 4]
TEXTS = ["Hello world", " leading space", "two  spaces   three", "tab\tnew\nline\n\n end ", "It's 2024-05-06, isn't it?", "日本語 🙂👩‍👩‍👧 ünïcödé", "<|im_start|>user\nhi<|im_end|>", "", " ", "def f(x):\n        return x**2", "x²³ ٣٤ ½", "the dog\u00a0the\u3000dog"]


def save(name, tokenizer, config, generation=None):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def record(folder, tokenizer):
    wrapper = load(folder, eos_token_ids=[])
    rng = random.Random(7)
    n = tokenizer.get_vocab_size()
    sequences = [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]
    sequences += [[rng.randrange(n) for _ in range(12)] for _ in range(12)]
    streams = []
    for ids in sequences:
        d = wrapper.detokenizer
        segments = []
        for i in ids:
            d.add_token(i)
            segments.append(d.last_segment)
        d.finalize()
        segments.append(d.last_segment)
        streams.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False), "clean": tokenizer.decode(ids, skip_special_tokens=True), "python_text": d.text})
    return {"detokenizer": type(wrapper.detokenizer).__name__, "size": n, "eos": sorted(wrapper.eos_token_ids), "encoded": [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids, "special": tokenizer.encode(t, add_special_tokens=True).ids} for t in TEXTS], "streams": streams}


recorded = {}
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

t = Tokenizer(models.BPE())
t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
t.decoder = decoders.ByteLevel()
t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
t.add_special_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=True)])
folder = save("byte_level", t, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": True}, "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"}, {"eos_token_id": [0, 2]})
recorded["byte_level"] = record(folder, t)

with tempfile.TemporaryDirectory() as tmp:
    corpus = pathlib.Path(tmp) / "c.txt"
    corpus.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=f"{tmp}/m", model_type="bpe", vocab_size=500, byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, user_defined_symbols=["<|im_start|>"], minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{tmp}/m.model")
size = sp.get_piece_size()
pieces = [sp.id_to_piece(i) for i in range(size)]
kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if pieces[i] == "<|im_start|>" else 1
gguf = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.scores": [sp.get_score(i) for i in range(size)], "tokenizer.ggml.token_type": [kind(i) for i in range(size)], "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}
plain = [x for x in TEXTS if "<|im" not in x]
(OUT / "sentencepiece_gguf.json").write_text(json.dumps({"meta": gguf, "encoded": [{"text": x, "ids": sp.encode(x)} for x in plain]}, ensure_ascii=False))

vocab = {p: i for i, p in enumerate(pieces)}
merges = []
for p in sorted(pieces, key=lambda p: (-sp.get_score(vocab[p]), vocab[p])):
    merges += [(p[:k], p[k:]) for k in range(len(p) - 1, 0, -1) if p[:k] in vocab and p[k:] in vocab]
for name, strip in (("spm", True), ("spm_no_strip", False)):
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if strip else []
    t.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + ([decoders.Strip(" ", 1, 0)] if strip else []))
    t.add_special_tokens([AddedToken(x, special=True) for x in ("<unk>", "<s>", "</s>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder = save(name, t, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    recorded[name] = record(folder, t)

t = Tokenizer(models.Unigram())
t.pre_tokenizer = pre_tokenizers.Metaspace()
t.decoder = decoders.Metaspace()
t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False))
folder = save("unigram", t, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"})
recorded["unigram"] = record(folder, t)
(HERE / "tokenizers.json").write_text(json.dumps(recorded, ensure_ascii=False))
