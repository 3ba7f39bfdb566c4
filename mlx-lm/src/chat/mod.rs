//! From a conversation to the model's prompt and from its answer back to text, thinking and tool calls.
//!
//! [`ChatTemplate`] renders a model's own jinja as Hugging Face does; [`stream`] parts an answer into normal text,
//! reasoning and tool calls while it arrives; [`tools`] reads the wire forms of tool calls. No arrays live here.

mod jinja;
mod message;
mod python;
pub mod stream;
mod strftime;
mod template;
pub mod tools;

pub use message::Message;
pub use template::{ChatTemplate, RenderOptions};
