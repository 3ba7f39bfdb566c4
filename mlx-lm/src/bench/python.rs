//! Python mlx-lm's own benchmark, one counted trial a process.

use super::compare::{Answer, Job, OtherTrial, rate, stdout};
use crate::{Error, Result};
use std::path::Path;
use std::process::Command;

/// `mlx_lm.benchmark` has no flag for the device and no word on versions. The device must stand before `mlx_lm` is
/// imported, which makes its stream.
const SCRIPT: &str = "\
import runpy, sys
import mlx.core as mx
mx.set_default_device(mx.Device(getattr(mx, sys.argv.pop(1)), 0))
import mlx_lm
print('Version:', mlx_lm.__version__, 'with mlx', mx.__version__)
runpy.run_module('mlx_lm.benchmark', run_name='__main__')
";

pub(super) fn trial(python: &Path, job: &Job) -> Result<Answer> {
    if !job.model.is_dir() {
        let model = job.model.display();
        return Err(Error::Request(format!("Python mlx-lm reads model directories, and {model} is none")));
    }
    let o = job.options;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, if job.gpu { "gpu" } else { "cpu" }, "--num-trials", "1", "--model"]).arg(job.model);
    for (flag, value) in [
        ("--prompt-tokens", o.prompt_tokens),
        ("--generation-tokens", o.generation_tokens),
        ("--batch-size", o.batch_size),
        ("--prefill-step-size", o.prefill_step),
    ] {
        command.args([flag, &value.to_string()]);
    }
    let text = stdout(&mut command, "--python PATH names an interpreter").map_err(|e| match e {
        Error::Program { program, message } if message.contains("No module named 'mlx") => {
            let extra = if cfg!(target_os = "macos") {
                ""
            } else if job.gpu {
                "[cuda13]"
            } else {
                "[cpu]"
            };
            let install = format!("{} -m pip install 'mlx-lm{extra}'", program.display());
            Error::program(program, format!("has no mlx-lm: {install}, or name another interpreter with --python PATH"))
        }
        e => e,
    })?;
    parse(&text).ok_or_else(|| {
        let wanted = "Averages: prompt_tps=.., generation_tps=.., peak_memory=..";
        Error::program(python, format!("its output has no line {wanted:?}"))
    })
}

fn parse(text: &str) -> Option<Answer> {
    let after = |start: &str| text.lines().find_map(|l| l.trim().strip_prefix(start));
    let averages = after("Averages:")?;
    let value = |key: &str| -> Option<f64> {
        let found = averages.split(',').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='))?;
        rate(found.trim().parse().ok()?)
    };
    Some(Answer {
        trial: OtherTrial {
            prompt_tps: value("prompt_tps")?,
            generation_tps: value("generation_tps")?,
            peak_memory_gb: value("peak_memory"),
        },
        version: after("Version:").unwrap_or_default().trim().to_owned(),
    })
}
