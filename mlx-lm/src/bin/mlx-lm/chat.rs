//! `mlx-lm chat`: a conversation on the terminal, with line editing and history.

use crate::args::{CacheArgs, ModelArgs, SampleArgs};
use crate::ui::{self, CtrlC, Wait};
use anyhow::{Context, Result};
use mlx_lm::StreamOptions;
use mlx_lm::generate::{Processor, Session, TokenOptions};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// What the model is told before the conversation.
    #[arg(long)]
    system_prompt: Option<String>,
    /// Longest answer in tokens.
    #[arg(short, long, default_value_t = 256)]
    max_tokens: usize,
    /// Prompt tokens that are processed at once.
    #[arg(long, default_value_t = 2048)]
    prefill_step_size: usize,
    /// Print tokens per second after each answer.
    #[arg(long)]
    stats: bool,
}

const HELP: &str = "The command list:
- /quit or 'q' to exit
- /reset or 'r' to start a new conversation
- /help or 'h' to display these commands
Ctrl-C ends an answer, Ctrl-D ends the chat.";

pub fn run(args: Args) -> Result<()> {
    let lm = args.model.load()?;
    lm.tokenizer()?;
    let mut session = Session::with_caches(&lm, args.system_prompt.as_deref(), args.cache.options())?;
    ui::line(format_args!("[INFO] Starting chat session with {}.\n{HELP}", args.model.name()))?;
    let mut lines = Lines::open()?;
    // after the editor, which takes the signal for itself
    ui::catch_ctrl_c()?;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => continue,
            "q" | "/quit" | "/exit" => break,
            "h" | "/help" => ui::line(HELP)?,
            "r" | "/reset" => {
                session.reset()?;
                ui::line("[INFO] A new conversation.")?;
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                ui::line(format_args!("{command} is not a command.\n{HELP}"))?;
            }
            _ => answer(&args, &mut session, &line, &lm)?,
        }
    }
    lines.close();
    Ok(())
}

fn answer(args: &Args, session: &mut Session<'_>, line: &str, lm: &mlx_lm::LanguageModel) -> Result<()> {
    let mut wait = Wait::new("reading the prompt");
    let processors = args.sample.processors();
    let options = StreamOptions {
        tokens: TokenOptions {
            max_tokens: Some(args.max_tokens),
            sampler: args.sample.sampler(lm),
            processors: if processors.is_empty() { vec![] } else { vec![Box::new(processors) as Box<dyn Processor>] },
            prefill_step: args.prefill_step_size,
            kv_quant: args.cache.quant(),
            progress: Some(Box::new(move |done, total| wait.at(done, total))),
            ..TokenOptions::default()
        },
        ..StreamOptions::default()
    };
    let ctrl_c = CtrlC::listen();
    let (mut said, mut stats) = (Ok(()), None);
    let result = session.send(line, options, &mut |r| {
        said = ui::say(&r.text);
        stats = Some(r.stats);
        said.is_ok() && !ctrl_c.pressed()
    });
    said?;
    ui::line("")?;
    match result {
        Ok(_) => {}
        // a turn that is too long, a template that refuses: the conversation goes on
        Err(e @ (mlx_lm::Error::Request(_) | mlx_lm::Error::Template(_))) => ui::note(&format!("error: {e}"))?,
        Err(e) => return Err(e.into()),
    }
    match stats.filter(|_| args.stats) {
        Some(stats) => ui::note(&stats.to_string()),
        None => Ok(()),
    }
}

/// Lines from the user: edited, with history, on a terminal; as they are from a pipe.
struct Lines {
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
}

impl Lines {
    fn open() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Lines { editor: None, history: None });
        }
        let mut editor = DefaultEditor::new().context("terminal")?;
        let history = history_file();
        if let Some(path) = &history {
            // none yet is fine
            let _ = editor.load_history(path);
        }
        Ok(Lines { editor: Some(editor), history })
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>> {
        let Some(editor) = &mut self.editor else {
            let mut line = String::new();
            return Ok((stdin().read_line(&mut line).context("stdin")? > 0).then_some(line));
        };
        loop {
            match editor.readline(">> ") {
                Ok(line) => {
                    // history is a convenience
                    let _ = editor.add_history_entry(line.as_str());
                    return Ok(Some(line));
                }
                // Ctrl-C clears the line
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(e) => return Err(e).context("terminal"),
            }
        }
    }

    fn close(&mut self) {
        if let (Some(editor), Some(path)) = (&mut self.editor, &self.history) {
            let saved = path.parent().map(std::fs::create_dir_all).unwrap_or(Ok(()));
            if saved.is_ok() {
                let _ = editor.save_history(path);
            }
        }
    }
}

/// `mlx-lm/chat-history` in the user's state folder.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("mlx-lm").join("chat-history"))
}
