//! Parts an answer into normal text, reasoning and tool calls while it arrives.
//!
//! Markers are matched on text, not on ids: a marker's last character may be merged with what follows it. They never
//! reach the output, and text that might still become a marker is held back.

/// What a piece of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    Normal,
    Reasoning,
    /// The inside of a tool call, to be read by a [`ToolParser`](super::tools::ToolParser).
    Tool,
}

/// In section `from`, `marker` is taken out of the text and section `to` begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub from: Section,
    pub marker: String,
    pub to: Section,
}

/// The markers of one model, as [`Splitter`] needs them.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    /// Start and end of reasoning.
    pub thinking: Option<(String, String)>,
    /// Start and end of a tool call; an empty end means the call lasts to the end of the answer.
    pub tool: Option<(String, String)>,
    /// Markers without meaning for a reader (`<|close|>message<|sep|>`).
    pub structural: Vec<String>,
    /// Stop strings, removed wherever they stand.
    pub stop: Vec<String>,
}

impl Markers {
    /// The moves between sections. An end marker without its start is removed too: models leak them.
    pub fn edges(&self) -> Vec<Edge> {
        use Section::{Normal, Reasoning, Tool};
        let mut edges = Vec::new();
        let mut add = |from, marker: &str, to| {
            if !marker.is_empty() {
                edges.push(Edge { from, marker: marker.into(), to });
            }
        };
        if let Some((start, end)) = &self.thinking {
            add(Normal, start, Reasoning);
            add(Reasoning, end, Normal);
            add(Normal, end, Normal);
        }
        if let Some((start, end)) = &self.tool {
            add(Normal, start, Tool);
            // Some models call a tool without closing their reasoning.
            add(Reasoning, start, Tool);
            add(Tool, end, Normal);
        }
        self.structural.iter().for_each(|marker| add(Normal, marker, Normal));
        for marker in &self.stop {
            [Normal, Reasoning, Tool].into_iter().for_each(|section| add(section, marker, section));
        }
        edges
    }
}

/// A state machine over the characters of one answer (Python `TextStateMachine`).
///
/// ```
/// use mlx_lm::chat::stream::{Markers, Section, Splitter};
/// let thinking = Some(("<think>".to_string(), "</think>".to_string()));
/// let mut splitter = Splitter::new(Markers { thinking, ..Default::default() }.edges(), Section::Normal);
/// let mut parts = splitter.push("Hm <th");
/// parts.extend(splitter.push("ink>why</think> so"));
/// let text: Vec<_> = parts.iter().map(|(section, text)| (*section, text.as_str())).collect();
/// assert_eq!(text, [(Section::Normal, "Hm "), (Section::Reasoning, "why"), (Section::Normal, " so")]);
/// ```
#[derive(Clone, Debug)]
pub struct Splitter {
    edges: Vec<Edge>,
    section: Section,
    /// Text that may be the start of a marker.
    held: String,
}

impl Splitter {
    pub fn new(edges: Vec<Edge>, initial: Section) -> Self {
        Self { edges, section: initial, held: String::new() }
    }

    /// The section that the next character falls in.
    pub fn section(&self) -> Section {
        self.section
    }

    /// Takes text and returns what became certain, in order; empty pieces are left out, except that a tool call that
    /// ends gives one (empty) [`Section::Normal`] piece if nothing follows, so that a reader sees the end.
    pub fn push(&mut self, text: &str) -> Vec<(Section, String)> {
        let mut parts: Vec<(Section, String)> = Vec::new();
        for c in text.chars() {
            self.held.push(c);
            match self.found() {
                Some((at, to)) => {
                    self.held.truncate(at);
                    give(&mut parts, self.section, &std::mem::take(&mut self.held));
                    if self.section == Section::Tool && to != Section::Tool {
                        parts.push((to, String::new()));
                    }
                    self.section = to;
                }
                None => {
                    let keep = self.partial();
                    let certain = self.held.len() - keep;
                    if certain > 0 {
                        give(&mut parts, self.section, &self.held[..certain]);
                        self.held.drain(..certain);
                    }
                }
            }
        }
        parts
    }

    /// Returns the text that was held back: no marker will complete it any more.
    pub fn finish(&mut self) -> Option<(Section, String)> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then_some((self.section, held))
    }

    fn here(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|e| e.from == self.section)
    }

    /// The longest marker that ends the held text: where it starts, and where it leads.
    fn found(&self) -> Option<(usize, Section)> {
        let ends = self.here().filter(|e| self.held.ends_with(e.marker.as_str()));
        let longest = ends.reduce(|a, b| if b.marker.len() > a.marker.len() { b } else { a })?;
        Some((self.held.len() - longest.marker.len(), longest.to))
    }

    /// The length of the longest end of the held text that starts a marker.
    fn partial(&self) -> usize {
        let starts = |e: &Edge| {
            let most = self.held.len().min(e.marker.len() - 1);
            let at = self.held.len() - most;
            (at..self.held.len())
                .filter(|&i| self.held.is_char_boundary(i))
                .find(|&i| e.marker.starts_with(&self.held[i..]))
                .map_or(0, |i| self.held.len() - i)
        };
        self.here().map(starts).max().unwrap_or(0)
    }
}

/// Adds text to the last piece of the same section, or starts one.
fn give(parts: &mut Vec<(Section, String)>, section: Section, text: &str) {
    if text.is_empty() {
        return;
    }
    match parts.last_mut() {
        Some((last, whole)) if *last == section => whole.push_str(text),
        _ => parts.push((section, text.into())),
    }
}
