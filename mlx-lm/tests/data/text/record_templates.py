"""Records what transformers (Jinja2) renders for templates/*.jinja: python record_templates.py > templates.json

Run with transformers 5.23.0 and Jinja2 3.1.6. The clock is fixed to 2026-02-03 04:05:06.
"""
import datetime
import json
import pathlib

import transformers
import transformers.utils.chat_template_utils as ctu


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 2, 3, 4, 5, 6)


ctu.datetime = Clock
HERE = pathlib.Path(__file__).parent / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather <b>now</b>\nin a \"city\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Stadt, z. B. Köln 🌧"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": "integer", "default": 1},
                "at": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
                "either": {"oneOf": [{"type": "string", "description": "as text"}, {"type": ["number", "null"]}]},
            },
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {"type": "object", "properties": {}}}}


def m(role, content=None, **more):
    return {"role": role, "content": content, **more}


CALL = {"type": "function", "id": "abcdef123", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2, "deep": {"a": [1.5, None, True]}}}}
CALL2 = {"type": "function", "id": "ghijkl456", "function": {"name": "now", "arguments": {}}}
PLAIN = [m("user", "Hi <there> & 'you'")]
SYSTEM = [m("system", "Be brief. "), m("user", "  One\n"), m("assistant", " Two "), m("user", "Three")]
TOOLS = [m("user", "Weather?"), m("assistant", "Let me see.", tool_calls=[CALL]), m("tool", "rain", tool_call_id="abcdef123", name="get_weather"), m("assistant", "It rains."), m("user", "And now?")]
TOOLS2 = [m("user", "Weather?"), m("assistant", "", tool_calls=[CALL, CALL2]), m("tool", "rain", tool_call_id="abcdef123"), m("tool", "noon", tool_call_id="ghijkl456")]
THINK = [m("user", "Q"), m("assistant", "<think>\nhmm\n</think>\n\nA"), m("user", "Q2"), m("assistant", "A2", reasoning_content="because\n"), m("user", "Q3"), m("assistant", "<think>\nx\n</think>\n\nA3")]
PARTS = [m("system", [{"type": "text", "text": "Sys"}]), m("user", [{"type": "image"}, {"type": "text", "text": " look "}, {"type": "text", "text": "here"}])]
TOOL_NONE = [m("system", "S1"), m("system", "S2"), m("user", "W?"), m("assistant", None, tool_calls=[CALL, CALL2]), m("tool", "rain"), m("assistant", "It rains.")]
STOP = [m("a", "one"), m("skip", "two"), m("b", "three"), m("stop", "four"), m("c", "five")]

CASES = {
    "qwen_thinking": [(PLAIN, {}), (PLAIN, {"enable_thinking": False}), (PLAIN, {"enable_thinking": True}), (SYSTEM, {}), (TOOLS, {"tools": [WEATHER, NOW]}), (TOOLS2, {"tools": [WEATHER]}), (THINK, {"add_generation_prompt": False}), (THINK, {"add_generation_prompt": False, "continue_final_message": True}), (SYSTEM[:3], {"add_generation_prompt": False, "continue_final_message": True})],
    "llama_tools": [(PLAIN, {}), (SYSTEM, {}), (TOOLS, {"tools": [WEATHER, NOW]}), (TOOLS2, {"tools": [WEATHER]}), ([], {"tools": [NOW]}), (PLAIN, {"date_string": "1 Jan 2020"}), (TOOLS, {"tools": [NOW], "tools_in_user_message": False}), (SYSTEM[:3], {"add_generation_prompt": False, "continue_final_message": True})],
    "mistral": [(PLAIN, {}), (SYSTEM, {}), (TOOLS, {"tools": [WEATHER, NOW]}), (TOOLS2, {"tools": [WEATHER]}), (SYSTEM[1:2] + SYSTEM[3:], {})],
    "gemma": [(PLAIN, {}), (SYSTEM, {}), (PARTS, {}), ([m("user", 3)], {}), (SYSTEM[2:3], {}), (SYSTEM[:3], {"add_generation_prompt": False, "continue_final_message": True})],
    "deepseek": [(PLAIN, {}), (PLAIN, {"thinking": True}), (SYSTEM, {}), (TOOL_NONE, {}), (TOOLS[:3], {}), (THINK, {"add_generation_prompt": False})],
    "typescript_macros": [(PLAIN, {"tools": [WEATHER, NOW]}), (SYSTEM, {})],
    "python_values": [(SYSTEM, {})],
    "control_flow": [(STOP, {}), ([], {})],
    "generation_blocks": [(SYSTEM, {}), (SYSTEM[:3], {"add_generation_prompt": False})],
    "glm": [(PLAIN, {}), (PLAIN, {"enable_thinking": False}), (TOOLS, {"tools": [WEATHER, NOW]}), (TOOLS2, {"tools": [WEATHER]}), (THINK, {"add_generation_prompt": False}), (PARTS, {})],
}

out = {"transformers": transformers.__version__, "tokens": TOKENS, "cases": []}
for name, cases in CASES.items():
    source = (HERE / f"{name}.jinja").read_text()
    for messages, options in cases:
        options = {"add_generation_prompt": True, **options}
        case = {"template": name, "messages": messages, "options": options}
        try:
            case["rendered"] = ctu.render_jinja_template([messages], chat_template=source, **options, **TOKENS)[0][0]
        except Exception as e:
            case["error"] = f"{e}"
        out["cases"].append(case)
print(json.dumps(out, ensure_ascii=False, indent=1))
