//! Any text as a chat template, and any text as a model's answer with tool calls.
#![no_main]
use libfuzzer_sys::fuzz_target;
use mlx_lm::chat::stream::{Markers, Section, Splitter};
use mlx_lm::chat::tools::ToolParsers;
use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|text: &str| {
    let tools = schemas();
    if let Ok(template) = ChatTemplate::from_source("fuzz", text) {
        let messages = [Message::system("s"), Message::user("a\nb"), Message::assistant("<think>x</think> y")];
        for tools in [None, Some(tools.clone())] {
            let _ = template.render(&messages, &RenderOptions { tools, ..Default::default() });
        }
    }
    let parsers = ToolParsers::builtin();
    for name in parsers.names() {
        let Ok(parser) = parsers.get(name) else { continue };
        let _ = parser.parse(text, &tools);
        let (start, end) = parser.markers();
        let markers = Markers { tool: Some((start.into(), end.into())), ..Default::default() };
        let mut splitter = Splitter::new(markers.edges(), Section::Normal);
        let parts = splitter.push(text);
        let _ = (parts, splitter.finish());
    }
});

/// Tools as a request brings them.
fn schemas() -> Vec<serde_json::Value> {
    let schema = r#"[{"type": "function", "function": {"name": "get_weather", "description": "d", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]"#;
    serde_json::from_str(schema).unwrap_or_default()
}
