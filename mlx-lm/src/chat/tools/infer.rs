//! Which wire form a model speaks.

/// Substrings of a chat template that tell the wire form, first hit wins.
const BY_TEMPLATE: [(&[&str], &str); 14] = [
    (&["<minimax:tool_call>"], "minimax_m2"),
    (&["<|tool_call>", "<tool_call|>"], "gemma4"),
    (&["<start_function_call>"], "function_gemma"),
    (&["<longcat_tool_call>"], "longcat"),
    (&["<arg_key>"], "glm47"),
    (&["<|tool_list_start|>"], "pythonic"),
    (&["<|tool_call_start|>"], "pythonic"),
    (&["<tool_call>\\n<function="], "qwen3_coder"),
    (&["<tool_call>\n<function="], "qwen3_coder"),
    (&["<|tool_calls_section_begin|>"], "kimi_k2"),
    (&["<function name=\"", "<param name=\""], "minicpm5"),
    (&["[TOOL_CALLS]"], "mistral"),
    (&["<atem:function_calls>"], "muse_spark"),
    (&["<tool_call>", "tool_call.name"], "json_tools"),
];

/// The wire form of a model, by its chat template, else by its vocabulary; `None` when neither tells.
pub fn infer(template: Option<&str>, has_token: &dyn Fn(&str) -> bool) -> Option<&'static str> {
    if let Some(template) = template
        && let Some((_, name)) = BY_TEMPLATE.iter().find(|(marks, _)| marks.iter().all(|m| template.contains(m)))
    {
        return Some(name);
    }
    if ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"].iter().all(|t| has_token(t)) {
        return Some("kimi_k3");
    }
    (has_token("<|tool_call_start|>") && has_token("<|tool_call_end|>")).then_some("pythonic")
}
