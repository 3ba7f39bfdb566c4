//! The hub: which files a model needs, and fetching them into the shared cache.
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};

use super::{cache, env};
use crate::{Error, Result};

/// How long a connection may take before the hub counts as unreachable.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the list of files may take.
const INFO: Duration = Duration::from_secs(20);

/// Opens a connection to the hub (or its proxy) and drops it.
pub(super) fn reachable() -> Result<()> {
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(env::text);
    let url = proxy.unwrap_or_else(env::endpoint);
    let plain = url.starts_with("http://");
    let rest = url.split_once("://").map_or(&url[..], |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let named_port = host.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    let address = if named_port { host.to_owned() } else { format!("{host}:{}", if plain { 80 } else { 443 }) };
    // name resolution has no timeout of its own
    let (send, receive) = mpsc::channel();
    let target = address.clone();
    std::thread::spawn(move || {
        let connect = || -> std::io::Result<()> {
            let mut last = std::io::Error::other("no address");
            for address in target.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT) {
                    Ok(_) => return Ok(()),
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        let _ = send.send(connect());
    });
    let why = match receive.recv_timeout(CONNECT) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("no answer in {} s", CONNECT.as_secs()),
    };
    Err(Error::Hub(format!("cannot reach {address}: {why}")))
}

/// Fetches what is missing; gives the snapshot folder, or the one file asked for.
pub(super) fn download(repo: &str, revision: Option<&str>, file: Option<&str>, progress: bool) -> Result<PathBuf> {
    let remedy = "check the name and the network, or name a local directory with --model";
    reachable().map_err(|e| Error::Hub(format!("cannot download {repo}: {e}; {remedy}")))?;
    let fail = |e: ApiError| Error::Hub(explain(repo, revision, &e));
    let folder = cache::hub_cache()?;
    let api = ApiBuilder::from_cache(Cache::new(folder)).with_endpoint(env::endpoint()).with_token(env::token());
    let api = api.with_retries(3).with_progress(false).build().map_err(fail)?;
    let revision = revision.unwrap_or("main").to_owned();
    let repository = api.repo(Repo::with_revision(repo.to_owned(), RepoType::Model, revision.clone()));
    let info = repository.info_request().timeout(INFO).call().map_err(|e| fail(Box::new(e).into()))?;
    let info: RepoInfo = info.into_json().map_err(|e| Error::Hub(format!("{repo}: the hub's list of files: {e}")))?;
    let mut names: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    match file {
        Some(file) => names.retain(|n| n == file),
        None => names.retain(|n| needed(n)),
    }
    if let Some(file) = file.filter(|_| names.is_empty()) {
        return Err(Error::Hub(format!("{repo} has no file {file}")));
    }
    let weights = names.iter().any(|n| n.ends_with(".safetensors") || n.ends_with(".gguf"));
    if !weights {
        return Err(Error::Hub(format!("{repo} has no model*.safetensors (a GGUF is named as {repo}/FILE.gguf)")));
    }
    // weights last: what is interrupted then is visibly incomplete
    names.sort_by_key(|n| (n.ends_with(".safetensors"), n.clone()));
    let mut folder = None;
    for name in &names {
        let bar = if progress { bar() } else { ProgressBar::hidden() };
        let in_cache = Cache::new(cache::hub_cache()?)
            .repo(Repo::with_revision(repo.to_owned(), RepoType::Model, revision.clone()))
            .get(name)
            .filter(|p| p.parent().is_some_and(|d| d.ends_with(&info.sha)));
        let path = match in_cache {
            Some(path) => path,
            None => repository.download_with_progress(name, Bar(bar)).map_err(fail)?,
        };
        if file.is_some() {
            return Ok(path);
        }
        folder = path.parent().map(PathBuf::from).or(folder);
    }
    folder.ok_or_else(|| Error::Hub(format!("{repo} has no files")))
}

/// Files a model needs, at the top of the repository.
fn needed(name: &str) -> bool {
    if name.contains('/') {
        return false;
    }
    let ends = |e: &str| name.ends_with(e);
    ends(".json")
        || ends(".jinja")
        || ends(".txt")
        || ends(".tiktoken")
        || name.starts_with("tokenizer")
        || name == "tiktoken.model"
        || (name.starts_with("model") && ends(".safetensors"))
}

fn explain(repo: &str, revision: Option<&str>, e: &ApiError) -> String {
    let text = e.to_string();
    let status = |code: &str| text.contains(&format!("status code {code}"));
    let at = revision.map_or(String::new(), |r| format!(" at revision {r}"));
    if status("401") || status("403") {
        return format!("{repo}{at} does not exist or needs a token: log in with `hf auth login` or set HF_TOKEN");
    }
    if status("404") {
        return format!("{repo}{at} does not exist on the hub");
    }
    format!("cannot download {repo}{at}: {text}")
}

struct Bar(ProgressBar);

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:30!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

impl Progress for Bar {
    fn init(&mut self, size: usize, name: &str) {
        self.0.set_length(size as u64);
        self.0.set_message(name.to_owned());
    }
    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }
    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}
