//! The WebAssembly engine of the process, and where it keeps what it compiles.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};
use rustix::process::geteuid;
use tailweir_core::Figures;
use tailweir_wasm::{Host, HostOptions, Meter, PluginCounts, PluginTally};
use tracing::warn;

use crate::figures;
use crate::logging::LogEvents;

/// The variable that says what `--plugin-cache` does not.
pub(crate) const VARIABLE: &str = "TAILWEIR_PLUGIN_CACHE";

/// Makes the engine when the first component asks for it. All its clones are the same engine.
#[derive(Clone)]
pub(crate) struct WasmEngine {
    option: Option<OsString>,
    pipeline: Option<PathBuf>,
    host: Arc<OnceLock<Arc<Host>>>,
    /// For shadows, whose doings are not to be taken for those of the plug-ins in use.
    shadows: Arc<OnceLock<Arc<Host>>>,
    figures: Arc<Figures>,
}

impl WasmEngine {
    /// With what `--plugin-cache` says.
    pub(crate) fn new(option: Option<&Path>) -> Self {
        Self {
            option: option.map(|path| path.as_os_str().to_owned()),
            pipeline: None,
            host: Arc::default(),
            shadows: Arc::default(),
            figures: Arc::default(),
        }
    }

    /// With what a pipeline file says about the cache, which counts for less than the option and the variable.
    pub(crate) fn with_pipeline(&self, cache: Option<&Path>) -> Self {
        Self { pipeline: cache.map(Path::to_owned), ..self.clone() }
    }

    /// The engine.
    pub(crate) fn host(&self) -> Result<&Arc<Host>> {
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let host = Host::new(self.options()).map_err(cannot_start)?;
        Ok(self.host.get_or_init(|| host))
    }

    /// The engine of shadows.
    pub(crate) fn shadow_host(&self) -> Result<&Arc<Host>> {
        if let Some(host) = self.shadows.get() {
            return Ok(host);
        }
        let options = HostOptions { label: Some("shadow"), ..self.options() };
        let host = Host::new(options).map_err(cannot_start)?;
        Ok(self.shadows.get_or_init(|| host))
    }

    /// An engine of its own, with the same cache, whose calls are measured.
    pub(crate) fn measured(&self, meter: Arc<Meter>) -> Result<Arc<Host>> {
        Host::measured(self.options(), meter).map_err(cannot_start)
    }

    fn options(&self) -> HostOptions {
        let said = self.option.clone().or_else(|| variable(VARIABLE));
        let said = said.or_else(|| self.pipeline.clone().map(PathBuf::into_os_string));
        let cache = match said {
            Some(said) if said == "off" => None,
            Some(path) => Some(path.into()),
            None => usual_place(variable, is_ours),
        };
        HostOptions { cache, label: None, events: Arc::new(LogEvents), figures: self.figures().clone() }
    }

    /// What is counted of plug-ins, in Lua too. From now on it is told every now and then.
    pub(crate) fn figures(&self) -> &Arc<Figures> {
        figures::tell_often(&self.figures);
        &self.figures
    }

    /// Tells at the end what was counted of plug-ins, and says how often any was in trouble.
    pub(crate) fn report(&self) {
        self.figures.report(&LogEvents);
        let hosts = self.host.get().into_iter().chain(self.shadows.get());
        for PluginTally { plugin, consumer, counts } in hosts.flat_map(|host| host.counts()) {
            if !counts.is_zero() {
                let PluginCounts { failed, recycled, lines_left_out, metrics_left_out } = counts;
                warn!(target: "tailweir", plugin, consumer, failed, recycled, lines_left_out, metrics_left_out, "plug-in was in trouble");
            }
        }
    }
}

fn cannot_start(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot start the WebAssembly engine: {error:#}")
}

/// A variable that is set, and not to nothing.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Where a program's cache belongs: below what systemd gives a service, else where the user's caches are.
fn usual_place(
    variable: impl Fn(&str) -> Option<OsString>,
    is_ours: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    if let Some(directories) = variable("CACHE_DIRECTORY") {
        let first = directories.as_bytes().split(|&byte| byte == b':').next()?;
        // In a directory of its own: systemd's may itself be a symbolic link, which would not be trusted.
        return Some(Path::new(OsStr::from_bytes(first)).join("plugins"));
    }
    // As its specification wants it, a relative path there is no path.
    let caches = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || {
        let home = variable("HOME").map(PathBuf::from)?;
        // After `sudo` it can be somebody else's, who shall not find root's files in there.
        is_ours(&home).then(|| home.join(".cache"))
    };
    Some(caches.or_else(home)?.join("tailweir"))
}

fn is_ours(path: &Path) -> bool {
    path.metadata().is_ok_and(|home| home.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_caches_belong() {
        let check = |variables: &[(&str, &str)], ours: bool, expected: Option<&str>| {
            let variable = |name: &str| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
            };
            assert_eq!(usual_place(variable, |_| ours), expected.map(PathBuf::from), "{variables:?}");
        };
        let (home, xdg) = (("HOME", "/home/me"), ("XDG_CACHE_HOME", "/c"));
        check(&[], true, None);
        check(&[home], true, Some("/home/me/.cache/tailweir"));
        check(&[home], false, None);
        check(&[home, xdg], false, Some("/c/tailweir"));
        check(&[home, ("XDG_CACHE_HOME", "c")], true, Some("/home/me/.cache/tailweir"));
        check(
            &[home, xdg, ("CACHE_DIRECTORY", "/var/cache/a:/var/cache/b")],
            true,
            Some("/var/cache/a/plugins"),
        );
    }
}
