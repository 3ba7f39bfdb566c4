//! One turn of a conversation.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One turn of a conversation: a JSON object with at least a `role`; all its fields reach the template, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message(Map<String, Value>);

impl Message {
    /// A turn with plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let mut fields = Map::new();
        fields.insert("role".into(), Value::String(role.into()));
        fields.insert("content".into(), Value::String(content.into()));
        Self(fields)
    }

    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text of the turn: its content, or the text parts of it joined (`None` when there is no text).
    pub fn text(&self) -> Option<String> {
        match self.get("content")? {
            Value::String(text) => Some(text.clone()),
            Value::Array(parts) => {
                let texts: Vec<&str> = parts.iter().filter_map(|p| p.get("text")?.as_str()).collect();
                (!texts.is_empty()).then(|| texts.concat())
            }
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets a field (`tool_calls`, `name`, `reasoning_content`, ...).
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Makes a turn of a request what templates expect (Python `process_message_content`): text parts become one
    /// string, missing content the empty string, arguments of tool calls given as JSON text become objects.
    ///
    /// Errors: a content part that is not text.
    pub fn normalize(&mut self) -> Result<()> {
        match self.get("content") {
            Some(Value::Array(parts)) => {
                let mut text = String::new();
                for part in parts {
                    match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text") | None, Some(t)) => text.push_str(t),
                        (kind, _) => {
                            let kind = kind.unwrap_or("unnamed");
                            return Err(Error::Request(format!("message content of type {kind:?} is not supported")));
                        }
                    }
                }
                self.set("content", text);
            }
            None | Some(Value::Null) => self.set("content", ""),
            Some(_) => {}
        }
        if let Some(Value::Array(calls)) = self.0.get_mut("tool_calls") {
            for call in calls {
                if let Some(arguments) = call.pointer_mut("/function/arguments")
                    && let Some(Ok(parsed)) = arguments.as_str().map(serde_json::from_str::<Value>)
                {
                    *arguments = parsed;
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = String;

    fn try_from(fields: Map<String, Value>) -> Result<Self, String> {
        match fields.get("role") {
            Some(Value::String(_)) => Ok(Self(fields)),
            _ => Err("a message needs a \"role\" string".into()),
        }
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.0
    }
}
