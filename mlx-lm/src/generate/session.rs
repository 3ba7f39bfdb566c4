//! A conversation with one model: turns, and the cache that spares processing them again.

use super::language::LanguageModel;
use super::stream::{FinishReason, Response, StreamOptions, TextStream};
use crate::cache::{self, CacheOptions, Caches, Snapshot};
use crate::chat::{Message, RenderOptions};
use crate::{Error, Result};
use std::cell::Cell;
use std::rc::Rc;

/// A conversation. Each turn is rendered by the model's template; what the cache holds of it already is not
/// processed again, so an answer equals that of a fresh cache.
pub struct Session<'m> {
    lm: &'m LanguageModel,
    messages: Vec<Message>,
    /// Options of the chat template.
    pub template: RenderOptions,
    options: CacheOptions,
    caches: Caches,
    /// The ids that `caches` holds.
    held: Vec<u32>,
    /// Where the last answer began, and how many ids stand before it: what a layer that cannot be trimmed goes back to
    /// when the answer is shown otherwise in the next turn.
    before_answer: Option<(usize, Snapshot)>,
}

impl<'m> Session<'m> {
    /// A new conversation, with what the model is told before it.
    pub fn new(lm: &'m LanguageModel, system: Option<&str>) -> Result<Self> {
        Self::with_caches(lm, system, CacheOptions::default())
    }

    /// As [`new`](Self::new), with caches of a chosen form.
    pub fn with_caches(lm: &'m LanguageModel, system: Option<&str>, options: CacheOptions) -> Result<Self> {
        let messages = system.map(Message::system).into_iter().collect();
        let caches = lm.caches_with(options)?;
        Ok(Session {
            lm,
            messages,
            template: RenderOptions::default(),
            options,
            caches,
            held: vec![],
            before_answer: None,
        })
    }

    /// Forgets all turns but the system's.
    pub fn reset(&mut self) -> Result<()> {
        self.messages.retain(|m| m.role() == "system");
        self.forget()
    }

    /// The turns so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Ids that need not be processed again.
    pub fn cached(&self) -> usize {
        self.held.len()
    }

    fn forget(&mut self) -> Result<()> {
        self.caches = self.lm.caches_with(self.options)?;
        self.held.clear();
        self.before_answer = None;
        Ok(())
    }

    /// Takes a user's turn and answers it; the answer becomes a turn when it ends, or when `each` returns false to end
    /// it. A turn that fails leaves the conversation as it was.
    pub fn send(
        &mut self,
        text: &str,
        options: StreamOptions<'_>,
        each: &mut dyn FnMut(&Response) -> bool,
    ) -> Result<Option<FinishReason>> {
        self.messages.push(Message::user(text));
        let result = self.answer(options, each);
        match &result {
            Ok((answer, _)) => self.messages.push(Message::assistant(answer.as_str())),
            Err(_) => {
                self.messages.pop();
                self.forget()?;
            }
        }
        result.map(|(_, reason)| reason)
    }

    fn answer(
        &mut self,
        mut options: StreamOptions<'_>,
        each: &mut dyn FnMut(&Response) -> bool,
    ) -> Result<(String, Option<FinishReason>)> {
        let ids = self.lm.chat_ids_with(&self.messages, &self.template)?;
        self.lm.check_length(ids.len())?;
        let new = self.keep_common(&ids)?;
        let mut fed = ids.clone();
        let max_tokens = options.tokens.max_tokens;
        let mark = Rc::new(Cell::new(None));
        let slot = mark.clone();
        options.tokens.at_prompt = Some(Box::new(move |caches| slot.set(Some(cache::snapshot(caches)))));
        let mut stream = TextStream::new(self.lm, new, &mut self.caches, options)?;
        let (mut text, mut reason, mut produced) = (String::new(), None, 0usize);
        for response in stream.by_ref() {
            let r = response?;
            produced += 1;
            // the step loop is one ahead: a token is in the cache when the next one is under way
            if max_tokens.is_none_or(|max| produced < max) {
                fed.push(r.token);
            }
            text.push_str(&r.text);
            reason = r.finish_reason;
            if !each(&r) {
                break;
            }
        }
        drop(stream);
        self.held = fed;
        self.before_answer = mark.take().map(|snapshot| (ids.len() - 1, snapshot));
        Ok((text, reason))
    }

    /// Cuts the caches back to what they share with `ids`; returns the ids that are still to be processed, at least one.
    fn keep_common<'i>(&mut self, ids: &'i [u32]) -> Result<&'i [u32]> {
        let Some(most) = ids.len().checked_sub(1) else {
            return Err(Error::Request("the conversation has no tokens".into()));
        };
        let common = self.held.iter().zip(ids).take_while(|(a, b)| a == b).count().min(most);
        let surplus = self.held.len() - common;
        let cut = match i32::try_from(surplus) {
            Ok(0) => true,
            Ok(n) => cache::trim(&mut self.caches, n) == n,
            Err(_) => false,
        };
        if cut {
            self.held.truncate(common);
            return Ok(&ids[common..]);
        }
        if let Some((at, snapshot)) = self.before_answer.take().filter(|(at, _)| *at <= common)
            && cache::restore(&mut self.caches, &snapshot).is_ok()
        {
            self.held.truncate(at);
            return Ok(&ids[at..]);
        }
        self.forget()?;
        Ok(ids)
    }
}
