"""Records what mlx-lm's tool parsers and TextStateMachine make of texts: python record_tools.py > tools.json

Run with mlx-lm 0.32.2.
"""
import importlib
import json

from mlx_lm.generate import TextStateMachine

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "temp": {"type": "number"}, "exact": {"type": "boolean"},
        "opts": {"type": "object"}, "tags": {"type": "array"}, "free": {}, "loose": {"description": "untyped"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string"}]}, "kind": {"enum": ["a", 1, None]},
        "multi": {"type": ["number", "boolean"]}, "dict": {"type": "dict"}, "odd": {"type": "custom"}}}}},
    {"type": "function", "function": {"name": "now"}},
]
Q = '<|"|>'


def params(open_, close, pairs):
    return "".join(f"{open_(k)}{v}{close}" for k, v in pairs)


PAIRS = [[("city", "Paris"), ("days", "3")], [("city", "5"), ("temp", "3.0"), ("exact", "TRUE")], [("temp", "1e3"), ("days", "2.0")],
         [("opts", '{"a": [1, null]}'), ("tags", "['x', 2, None, True]")], [("opts", "{'a': (1, 2), 3: 'b'}"), ("dict", "[1,")],
         [("free", "7"), ("loose", '[1, 2]'), ("unknown", "8")], [("loose", "9"), ("odd", "0x1F"), ("odd2", "x")],
         [("city", "null"), ("either", "NULL"), ("days", "null")], [("either", "42"), ("kind", "1"), ("multi", "yes")],
         [("either", "nil"), ("kind", "b"), ("multi", "0.5")], [("city", "\nline one\nline two\n"), ("days", " 4 ")],
         [("days", "2.5")], [("days", "many")], [("temp", "hot")], [("exact", "no")], [("exact", "maybe")], [("opts", '{"a": "x\ty"}')],
         [("city", "a < b & c"), ("tags", "[1, 2")], [("days", "1_000"), ("temp", "-0.25")], [("odd", "'a' 'b'"), ("tags", "(1,)")], []]

cases = {
    "json_tools": ['{"name": "f", "arguments": {"a": 1, "b": [true, null, "é"]}}', '\n {"name": "f", "arguments": {}} \n', '{"name": "f", "arguments": {"a": 1}', "no", '{"name": "f", "arguments": "{\\"a\\": 1}"}'],
    "qwen3_coder": ["\n<function=get_weather>\n" + params(lambda k: f"<parameter={k}>\n", "\n</parameter>\n", p) + "</function>\n" for p in PAIRS]
    + ["<function=now></function>", "<function=now>", "nothing", "<function=other><parameter=days>3</parameter></function>", "<function=get_weather><parameter=city>x</parameter></function> trailing"],
    "glm47": ["get_weather\n" + params(lambda k: f"<arg_key>{k}</arg_key>\n<arg_value>", "</arg_value>\n", p) for p in PAIRS]
    + ['{"name": "get_weather", "arguments": {"city": 5, "days": "3", "opts": {"k": true}}}', '[{"function": "f", "arguments": "{\\"a\\": 1}"}]', '{"tool": {"name": "now"}}', '{"name": {"name": "f", "arguments": {"x": "1"}}, "arguments": null}',
       "get_weather {\"city\": 1.5, \"days\": \"2\"}", "now", "get_weather\n{\"city\": \"x\"}", "get_weather city=Paris days=3 tags='[1, 2]'", 'f a="x y" b=\\"q c=', "f just words", "f 'open a=1", "", "  ", "{\"x\": 1}", "get_weather\\n<arg_key>days</arg_key>\\n<arg_value>1</arg_value>"],
    "longcat": ["get_weather\n" + params(lambda k: f"<longcat_arg_key>{k}</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>\n", p) for p in PAIRS[:8]] + ['{"name": "f", "arguments": {"a": "1"}}', "no arguments"],
    "minimax_m2": ['\n<invoke name="get_weather">\n' + params(lambda k: f'<parameter name="{k}">', "</parameter>\n", p) + "</invoke>\n" for p in PAIRS]
    + ['<invoke name="now"></invoke><invoke name=\'get_weather\'><parameter name=city>x</parameter></invoke>', "<invoke name=now>", '<invoke name="f"><parameter name="a"></parameter></invoke>'],
    "minicpm5": ['"get_weather">' + params(lambda k: f'<param name="{k}">', "</param>", p) for p in PAIRS]
    + ['<function name="now"></function><function name=\'get_weather\'><param name="city"><![CDATA[a < b & "c"\n]]></param></function>', "<<<"],
    "kimi_k2": ['functions.get_weather:0<|tool_call_argument_begin|>{"city": "x", "n": 2}', '<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>\n<|tool_call_begin|>b:12 <|tool_call_argument_begin|> {\'y\': None}<|tool_call_end|>', "functions.a:0<|tool_call_argument_begin|>not json", "none"],
    "kimi_k3": ['<|open|>call tool="f" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>5<|close|>argument<|sep|><|open|>argument key="n" type="number"<|sep|>5.5<|close|>argument<|sep|><|open|>argument key="o" type="object"<|sep|>{bad<|close|>argument<|sep|><|open|>argument key="t"<|sep|>7<|close|>argument<|sep|><|close|>call<|sep|>',
                '<|open|>call tool="f &amp; &quot;g&quot;"<|sep|><|open|>json type="object"<|sep|>{"a": [1]}<|close|>json<|sep|><|close|>call<|sep|>\n<|open|>call index="2"<|sep|><|close|>call<|sep|>', '<|open|>call tool="f"<|sep|><|open|>json<|sep|>[1]<|close|>json<|sep|><|close|>call<|sep|>', "x"],
    "mistral": ['[{"name": "f", "arguments": {"a": 1}, "id": "abc123def"}, {"name": "g", "arguments": "{\\"b\\": 2}"}]', 'f[ARGS]{"a": {"b": []}}', 'f[ARGS]{"a": 1}g-h [ARGS] {"c": "[ARGS]"}', '[{"name": "f"}]', '[{"name": 1, "arguments": {}}]', "f[ARGS]{", "[]", "words", '[{"name": "f", "arguments": "oops"}]', "f[ARGS][1, 2]"],
    "pythonic": ['[f(a=1, b="x, y", c=[1, {"k": true}], d=None)]', "[a(x=1), b.c(y='q')]", "[f()]", "text [f(a=-1.5e3, b=(1, 2,), c={'k': null})] after", "[f(1)]", "[f(a=x)]", '[f(a="it\'s", b=bare words, c=3)]', "f(a=1)", "[f(a='x' 'y', b=\"\"\"t\nq\"\"\", c='\\u00e9\\n\\x41')]", "[]", "[f(a=0x10, b=1_000, c=True)]", "[f(a=1, a=2)]", '[f(a="[b]")]', "[f(a=07)]", "[f(a=r'\\n', u=u'x')]"],
    "gemma4": [f"call:get_weather{{city:{Q}Paris, \"x\" {{}}{Q},days:3,tags:[{Q}a{Q},{{k:true,n:null}}]}}", "call:now{}", f"call:a{{x:1}}call:b-c{{y:{Q}call:z{{}}{Q}}}", "call:f{x:1", f"call:f{{x:{Q}open}}", "nothing", "call:f{a:bare}", f"call:f{{a:{Q}line\nnew<|{Q}}}"],
    "function_gemma": ["call:get_weather{city:<escape>Paris, {x}<escape>,days:3}".replace("{x}", "x"), "call:now{}", "call:f{a:1,b:true,c:word,d:<escape>e:f<escape>}", "call:f{a}", "call:f{a:<escape>open}", "none", "call:f{a:<escape>x<escape>,}"],
    "muse_spark": ['<atem:invoke name="f"><atem:parameter name="a">1</atem:parameter><atem:parameter name="b" x="y"> text </atem:parameter></atem:invoke>', '<atem:invoke id="1" name="f"><atem:parameter name="a">has </atem:invoke> inside</atem:parameter></atem:invoke><atem:invoke name="g"></atem:invoke>', '<atem:invoke name="f"><atem:parameter name="a">[1, {"b": null}]</atem:parameter>', "none", '<atem:invoke name="f">x<atem:parameter name="a">open</atem:invoke>'],
}

out = {"tools": TOOLS, "parsed": [], "streams": []}
for name, texts in cases.items():
    parse = importlib.import_module(f"mlx_lm.tool_parsers.{name}").parse_tool_call
    for text in texts:
        case = {"parser": name, "text": text}
        try:
            calls = parse(text, TOOLS)
            calls = calls if isinstance(calls, list) else [calls]
            # As the server hands them on: calls need a name, arguments must be JSON.
            case["calls"] = json.loads(json.dumps([{"name": c["name"], "arguments": c["arguments"], "id": c.get("id")} for c in calls], allow_nan=False))
        except Exception as e:
            case["error"] = type(e).__name__
        out["parsed"].append(case)

EDGES = {"normal": [("<think>", "reasoning"), ("<tool_call>", "tool"), ("STOP", "normal")], "reasoning": [("</think>", "normal"), ("<tool_call>", "tool"), ("STOP", "reasoning")], "tool": [("</tool_call>", "normal"), ("STOP", "tool")]}
TEXTS = ["plain", "<think>a</think>b", "<<think>>x</thin</think>y", "a<tool_call>{}</tool_call><tool_call>1</tool_call>", "<think>why<tool_call>x</tool_call>z", "SSTOPSTO", "<thi", "é<think>ü</think>日本", "<tool_call>open <think>", "a<b<c<think>STOP</think>"]
for text in TEXTS:
    for initial in ("normal", "reasoning"):
        state = TextStateMachine(EDGES).make_state(initial)
        got = {}
        order = []
        for c in text:
            state, segments = TextStateMachine.split(state, c)
            order += segments
        state, rest, name = TextStateMachine.flush(state)
        order.append((name, rest))
        joined = []
        for name, piece in order:
            if piece and joined and joined[-1][0] == name:
                joined[-1][1] += piece
            elif piece:
                joined.append([name, piece])
        out["streams"].append({"text": text, "initial": initial, "parts": joined})
print(json.dumps(out, ensure_ascii=False, indent=0))
