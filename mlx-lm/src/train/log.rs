//! What a run reports, kept: JSON lines while it runs, a plot of the losses.

use super::plot;
use super::trainer::Report;
use crate::weights::write_atomic;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The reports of a run, in its adapter directory (`log.jsonl`, `loss.svg`) and, if asked for, in one more file: JSON
/// lines, or a plot if its name ends in `.svg` or `.html`.
pub struct Log {
    reports: Vec<Report>,
    lines: Vec<(PathBuf, File)>,
    plots: Vec<PathBuf>,
}

impl Log {
    /// `go_on` adds to a log that is there, as a resumed run does.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn open(dir: &Path, more: Option<&Path>, go_on: bool) -> Result<Log> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let mut log = Log { reports: Vec::new(), lines: Vec::new(), plots: vec![dir.join("loss.svg")] };
        let own = dir.join("log.jsonl");
        if go_on && own.exists() {
            let text = std::fs::read_to_string(&own).map_err(|e| Error::io(&own, e))?;
            // the last line of a run that was killed may be half a one
            log.reports = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        }
        let mut add = |path: PathBuf| -> Result<()> {
            let file = match go_on {
                true => OpenOptions::new().append(true).create(true).open(&path),
                false => File::create(&path),
            };
            log.lines.push((path.clone(), file.map_err(|e| Error::io(path, e))?));
            Ok(())
        };
        add(own)?;
        match more {
            Some(p) if p.extension().is_some_and(|e| e == "svg" || e == "html") => log.plots.push(p.into()),
            Some(p) => add(p.into())?,
            None => {}
        }
        Ok(log)
    }

    /// Writes one report.
    pub fn add(&mut self, report: &Report) -> Result<()> {
        let mut line = serde_json::to_vec(report).map_err(|e| Error::Request(e.to_string()))?;
        line.push(b'\n');
        for (path, file) in &mut self.lines {
            file.write_all(&line).map_err(|e| Error::io(&*path, e))?;
        }
        // a resumed run comes again to what the killed one had reported after its checkpoint
        self.reports.retain(|r| r.iteration < report.iteration || r.val_loss.is_some() != report.val_loss.is_some());
        self.reports.push(report.clone());
        Ok(())
    }

    /// Draws the plots.
    pub fn finish(&self) -> Result<()> {
        for path in &self.plots {
            let html = path.extension().is_some_and(|e| e == "html");
            let text = if html { plot::html(&self.reports) } else { plot::svg(&self.reports) };
            write_atomic(path, text.as_bytes())?;
        }
        Ok(())
    }
}
