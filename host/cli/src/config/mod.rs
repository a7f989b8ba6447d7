//! The pipeline file of `tailweir run`.

mod error;
mod shadow;
mod values;

use std::collections::HashMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tailweir_pipeline::{
    Backoff, CheckpointName, CheckpointOptions, CheckpointSync, ConsumerOptions, OnCrash, OnFilterError,
    OnMalformed, Policy, QuarantineOptions, Then, WhenFull,
};
use tailweir_segments::{Ordering, Pattern};
use tailweir_wasm::{Grants, Limits};
use toml::Spanned;

use crate::reload::When;
use crate::sinks::{FileOptions, HttpOptions};
pub use error::ConfigError;
pub(crate) use error::{in_our_words, nearest};
pub(crate) use shadow::Shadow;
use values::{Json, Secrets};
pub(crate) use values::{Period, Text};

/// A pipeline file that is in order, as far as it can be told without looking at what it names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    pub(crate) tailer: Tailer,
    /// Where compiled WebAssembly plug-ins are kept, or `off`.
    pub(crate) plugin_cache: Option<PathBuf>,
    /// When the files of plug-ins are read again.
    #[serde(default, deserialize_with = "values::plugin_reload")]
    pub(crate) plugin_reload: When,
    #[serde(rename = "consumer")]
    pub(crate) consumers: Vec<ConsumerTable>,
}

/// The table `[tailer]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tailer {
    pub(crate) directory: PathBuf,
    #[serde(default, deserialize_with = "values::pattern")]
    pub(crate) pattern: Option<Pattern>,
    pub(crate) poll_watcher: Option<Period>,
    #[serde(default)]
    pub(crate) tail: bool,
    #[serde(default = "yes")]
    pub(crate) follow: bool,
    #[serde(default, deserialize_with = "values::ordering")]
    pub(crate) ordering: Option<Ordering>,
    pub(crate) max_line_size: Option<NonZeroUsize>,
    pub(crate) read_ahead_bytes: Option<NonZeroUsize>,
}

/// One table `[[consumer]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsumerTable {
    pub(crate) name: Spanned<String>,
    /// One, or a list of them, all of which must keep a record.
    #[serde(default, deserialize_with = "values::one_or_more")]
    pub(crate) filter: Vec<Plugin<ForFilter>>,
    pub(crate) processor: ProcessorTable,
    pub(crate) sink: Option<SinkTable>,
    #[serde(default, deserialize_with = "values::parallelism")]
    pub(crate) parallelism: Option<NonZeroUsize>,
    pub(crate) max_batch_size: Option<NonZeroUsize>,
    pub(crate) max_batch_bytes: Option<NonZeroUsize>,
    pub(crate) max_batch_latency: Option<Period>,
    pub(crate) checkpoint: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "values::checkpoint_sync")]
    pub(crate) checkpoint_sync: Option<CheckpointSync>,
    #[serde(default, deserialize_with = "values::on_malformed")]
    pub(crate) on_malformed: Option<OnMalformed>,
    pub(crate) quarantine_max_bytes: Option<NonZeroU64>,
    #[serde(default, deserialize_with = "values::when_full")]
    pub(crate) quarantine_when_full: Option<WhenFull>,
    #[serde(default)]
    pub(crate) on_error: OnError,
}

impl ConsumerTable {
    /// What the consumer is told, without its filters.
    pub(crate) fn options(&self) -> anyhow::Result<ConsumerOptions> {
        let mut options = ConsumerOptions::new(self.name.get_ref());
        options.on_filter_error = OnFilterError::Isolate;
        // One of those that filter is the consumer's own thread.
        options.filter_threads = self.parallelism.map(|instances| instances.get() - 1);
        options.max_poison = self.on_error.max_poison();
        options.on_malformed = self.on_malformed.unwrap_or_default();
        options.max_batch_size = self.max_batch_size.map_or(options.max_batch_size, Into::into);
        options.max_batch_bytes = self.max_batch_bytes.map_or(options.max_batch_bytes, Into::into);
        options.max_batch_latency = self.max_batch_latency.map_or(options.max_batch_latency, Into::into);
        let mut checkpoint = CheckpointOptions::new(CheckpointName::new(self.checkpoint_name().get_ref())?);
        checkpoint.sync = self.checkpoint_sync.unwrap_or_default();
        checkpoint.quarantine = self.quarantine();
        options.checkpoint = Some(checkpoint);
        Ok(options)
    }

    /// How much its quarantine may hold, and what its processor is called there.
    pub(crate) fn quarantine(&self) -> QuarantineOptions {
        let mut options = QuarantineOptions::default();
        options.max_bytes = self.quarantine_max_bytes.map_or(options.max_bytes, NonZeroU64::get);
        options.when_full = self.quarantine_when_full.unwrap_or_default();
        if let ProcessorTable::Plugin(plugin) = &self.processor {
            options.processor = format!("processor {}", plugin.path().display());
        }
        options
    }

    /// How many batches its processor deals with at once.
    pub(crate) fn instances(&self) -> usize {
        self.parallelism.map_or(1, NonZeroUsize::get)
    }

    /// The name of its checkpoint: its own, unless it has been given another. [`load`] has checked it.
    pub(crate) fn checkpoint_name(&self) -> &Spanned<String> {
        self.checkpoint.as_ref().unwrap_or(&self.name)
    }
}

/// A plug-in: a component, or a Lua file that returns a function.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "PluginTable", bound = "Use: PluginUse")]
pub(crate) struct Plugin<Use> {
    pub(crate) engine: Engine,
    config: serde_json::Value,
    secrets: Secrets,
    pub(crate) shadow: Option<Shadow>,
    used_for: std::marker::PhantomData<Use>,
}

#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Wasm { path: PathBuf, grants: Grants, limits: Limits },
    Lua { path: PathBuf },
}

/// What a plug-in is used for.
pub(crate) trait PluginUse {
    /// Why it cannot be given grants, if it cannot.
    const NO_GRANTS: Option<&'static str>;
    /// Why a Lua file cannot be its shadow, if it cannot.
    const NO_LUA_SHADOW: Option<&'static str>;
}

#[derive(Debug, Clone)]
pub(crate) struct ForFilter;

impl PluginUse for ForFilter {
    const NO_GRANTS: Option<&'static str> = Some("`grants` is not for filters: a filter gets no capability");
    const NO_LUA_SHADOW: Option<&'static str> = None;
}

#[derive(Debug, Clone)]
pub(crate) struct ForProcessor;

impl PluginUse for ForProcessor {
    const NO_GRANTS: Option<&'static str> = None;
    const NO_LUA_SHADOW: Option<&'static str> = Some(
        "a processor in Lua cannot be a shadow: it has the rights of the program, so nothing keeps it from having an effect; \
         give a component",
    );
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginTable {
    wasm: Option<PathBuf>,
    lua: Option<PathBuf>,
    config: Option<Json>,
    secrets: Option<Secrets>,
    grants: Option<Grants>,
    limits: Option<Limits>,
    shadow: Option<Shadow>,
}

impl<Use: PluginUse> TryFrom<PluginTable> for Plugin<Use> {
    type Error = String;

    fn try_from(table: PluginTable) -> Result<Self, String> {
        if let (Some(why), Some(_)) = (Use::NO_GRANTS, &table.grants) {
            return Err(why.to_owned());
        }
        if let (Some(why), Some(shadow)) = (Use::NO_LUA_SHADOW, &table.shadow)
            && shadow.is_lua()
        {
            return Err(why.to_owned());
        }
        let engine = match (table.wasm, table.lua) {
            (Some(path), None) => Engine::Wasm {
                path,
                grants: table.grants.unwrap_or_default(),
                limits: table.limits.unwrap_or_default(),
            },
            (None, Some(_)) if table.grants.is_some() => {
                return Err("`grants` is for `wasm`: a Lua function has the rights of the program".to_owned());
            }
            (None, Some(_)) if table.limits.is_some() => {
                return Err("`limits` is for `wasm`: a Lua function has none".to_owned());
            }
            (None, Some(path)) => Engine::Lua { path },
            _ => return Err("give one of `wasm` and `lua`, the path of the plug-in".to_owned()),
        };
        Ok(Self {
            engine,
            config: table.config.unwrap_or_default().0,
            secrets: table.secrets.unwrap_or_default(),
            shadow: table.shadow,
            used_for: std::marker::PhantomData,
        })
    }
}

/// What deals with the batches.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ProcessorFields")]
pub(crate) enum ProcessorTable {
    Plugin(Box<Plugin<ForProcessor>>),
    BuiltIn(SinkTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessorFields {
    wasm: Option<PathBuf>,
    lua: Option<PathBuf>,
    config: Option<Json>,
    secrets: Option<Secrets>,
    grants: Option<Grants>,
    limits: Option<Limits>,
    shadow: Option<Shadow>,
    stdout: Option<Nothing>,
    file: Option<FileOptions>,
    http: Option<HttpOptions>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl TryFrom<ProcessorFields> for ProcessorTable {
    type Error = String;

    fn try_from(table: ProcessorFields) -> Result<Self, String> {
        let ProcessorFields { wasm, lua, config, secrets, grants, limits, shadow, stdout, file, http } =
            table;
        let given = [wasm.is_some(), lua.is_some(), stdout.is_some(), file.is_some(), http.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("give one of `wasm`, `lua`, `stdout`, `file` and `http`".to_owned());
        }
        if wasm.is_some() || lua.is_some() {
            let plugin = PluginTable { wasm, lua, config, secrets, grants, limits, shadow }.try_into()?;
            return Ok(Self::Plugin(Box::new(plugin)));
        }
        if config.is_some() || secrets.is_some() || grants.is_some() || limits.is_some() || shadow.is_some() {
            return Err(
                "`config`, `secrets`, `grants`, `limits` and `shadow` are for `wasm` and `lua`".to_owned()
            );
        }
        Ok(Self::BuiltIn(match (file, http) {
            (Some(file), _) => SinkTable::File(file),
            (_, Some(http)) => SinkTable::Http(http),
            _ => SinkTable::Stdout {},
        }))
    }
}

/// Where batches, or the records that a processor emits, go.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum SinkTable {
    Stdout {},
    File(FileOptions),
    Http(HttpOptions),
}

impl Default for SinkTable {
    fn default() -> Self {
        Self::Stdout {}
    }
}

/// The table `on_error`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnError {
    initial: Option<Period>,
    max: Option<Period>,
    #[serde(default, deserialize_with = "values::multiplier")]
    multiplier: Option<f64>,
    #[serde(default, deserialize_with = "values::jitter")]
    jitter: Option<f64>,
    #[serde(default, deserialize_with = "values::max_attempts")]
    max_attempts: Option<u32>,
    #[serde(default, deserialize_with = "values::max_poison")]
    max_poison: Option<u32>,
    #[serde(default, deserialize_with = "values::then")]
    then: Option<Then>,
}

impl OnError {
    /// How many records in a row a plug-in may fail on.
    pub(crate) fn max_poison(&self) -> Option<u32> {
        match self.then {
            // Whoever wants everything in quarantine wants these there, too.
            Some(Then::Quarantine) => self.max_poison,
            _ => Some(self.max_poison.unwrap_or(OnCrash::LIMIT)),
        }
    }

    /// What happens to batches that `processor` fails on.
    pub(crate) fn policy(&self, processor: &ProcessorTable) -> Policy {
        let default = Policy::default();
        Policy {
            backoff: Backoff {
                initial: self.initial.map_or(default.backoff.initial, Duration::from),
                max: self.max.map_or(default.backoff.max, Duration::from),
                multiplier: self.multiplier.unwrap_or(default.backoff.multiplier),
                jitter: self.jitter.unwrap_or(default.backoff.jitter),
            },
            max_attempts: self.max_attempts.or(default.max_attempts),
            then: self.then.unwrap_or(default.then),
            on_crash: match processor {
                ProcessorTable::Plugin(plugin) if matches!(plugin.engine, Engine::Wasm { .. }) => {
                    OnCrash::Isolate { limit: self.max_poison() }
                }
                // A Lua function raises whatever goes wrong, a connection that fails for one.
                _ => OnCrash::Retry,
            },
        }
    }
}

fn yes() -> bool {
    true
}

/// Reads a pipeline file. Its relative paths are taken from the folder that it is in.
///
/// # Errors
/// With the file and line of what is wrong.
pub(crate) fn load(path: &Path) -> Result<Pipeline, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::new(path, None, format!("cannot be read: {e}")))?;
    let mut pipeline = parse(path, &text)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for relative in pipeline.paths() {
        *relative = folder.join(&relative);
    }
    Ok(pipeline)
}

/// Reads the text of a pipeline file, which is called `path` in messages. Relative paths in it stay as they are.
///
/// # Errors
/// What is wrong, and with which line.
pub fn parse(path: &Path, text: &str) -> Result<Pipeline, ConfigError> {
    let pipeline: Pipeline = toml::from_str(text).map_err(|e| ConfigError::from_toml(path, text, &e))?;
    let fail = |at: &Spanned<String>, message: String| {
        Err(ConfigError::new(path, Some((text, at.span().start)), message))
    };
    let (mut names, mut checkpoints) = (HashMap::new(), HashMap::new());
    for consumer in &pipeline.consumers {
        let name = consumer.name.get_ref();
        if name.is_empty() || name.chars().any(|c| c.is_control() || !c.is_ascii()) {
            return fail(
                &consumer.name,
                "a consumer's name must be printable ASCII: it is part of each batch's id".to_owned(),
            );
        }
        if names.insert(name, ()).is_some() {
            return fail(&consumer.name, format!("a second consumer is called `{name}`"));
        }
        if let (ProcessorTable::BuiltIn(_), Some(_)) = (&consumer.processor, &consumer.sink) {
            let message = "takes what a plug-in emits; a built-in processor emits nothing";
            return fail(&consumer.name, format!("the `sink` of consumer `{name}` {message}"));
        }
        if let (ProcessorTable::BuiltIn(SinkTable::Stdout {} | SinkTable::File(_)), 2..) =
            (&consumer.processor, consumer.instances())
        {
            let message = "is for plug-ins and `http`: a file is written by one. Leave it out; filters run on all cores as it is";
            return fail(&consumer.name, format!("the `parallelism` of consumer `{name}` {message}"));
        }
        let checkpoint = consumer.checkpoint_name();
        if let Err(e) = CheckpointName::new(checkpoint.get_ref()) {
            return fail(checkpoint, e.to_string());
        }
        if let Some(other) = checkpoints.insert(checkpoint.get_ref(), name) {
            let checkpoint_name = checkpoint.get_ref();
            return fail(
                checkpoint,
                format!("checkpoint `{checkpoint_name}` belongs to consumer `{other}` already"),
            );
        }
    }
    if pipeline.consumers.is_empty() {
        return Err(ConfigError::new(path, None, "there is no [[consumer]]".to_owned()));
    }
    Ok(pipeline)
}

impl Pipeline {
    /// What each consumer is told, without its plug-ins, and what happens to batches that its processor fails on.
    ///
    /// # Errors
    /// None at present: [`parse`] has checked all of it.
    pub fn plans(&self) -> anyhow::Result<Vec<(ConsumerOptions, Policy)>> {
        let plan = |table: &ConsumerTable| Ok((table.options()?, table.on_error.policy(&table.processor)));
        self.consumers.iter().map(plan).collect()
    }

    /// Makes it read what is laid out in `directory` for a replay, to its end. Nothing is compared meanwhile.
    pub(crate) fn replay_from(&mut self, directory: PathBuf) {
        let tailer = &mut self.tailer;
        (tailer.directory, tailer.pattern, tailer.tail, tailer.follow) = (directory, None, false, false);
        for consumer in &mut self.consumers {
            consumer.on_malformed = Some(OnMalformed::Quarantine);
            consumer.quarantine_max_bytes = Some(NonZeroU64::MAX);
            consumer.filter.iter_mut().for_each(|plugin| plugin.shadow = None);
            if let ProcessorTable::Plugin(plugin) = &mut consumer.processor {
                plugin.shadow = None;
            }
        }
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let consumers = self.consumers.iter_mut().flat_map(|consumer| {
            let filters = consumer.filter.iter_mut().flat_map(Plugin::paths_mut);
            let processor = match &mut consumer.processor {
                ProcessorTable::Plugin(plugin) => plugin.paths_mut(),
                ProcessorTable::BuiltIn(sink) => sink.paths_mut(),
            };
            let sink = consumer.sink.iter_mut().flat_map(SinkTable::paths_mut);
            filters.chain(processor).chain(sink)
        });
        let cache = self.plugin_cache.iter_mut().filter(|cache| cache.as_os_str() != "off");
        std::iter::once(&mut self.tailer.directory).chain(cache).chain(consumers)
    }
}

impl Engine {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Wasm { path, .. } | Self::Lua { path } => path,
        }
    }
}

impl<Use> Plugin<Use> {
    pub(crate) fn path(&self) -> &Path {
        self.engine.path()
    }

    /// Its configuration, with its secrets, which are read now.
    pub(crate) fn config(&self) -> anyhow::Result<serde_json::Value> {
        let mut config = self.config.clone();
        let added = self.secrets.add_to(&mut config);
        added.with_context(|| format!("secrets of {}", self.path().display()))?;
        Ok(config)
    }

    /// The plug-in, and the files that its secrets are read from.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = self.secrets.paths_mut();
        paths.extend(self.shadow.iter_mut().flat_map(Shadow::paths_mut));
        match &mut self.engine {
            Engine::Wasm { path, .. } | Engine::Lua { path } => paths.push(path),
        }
        paths
    }
}

impl SinkTable {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::File(options) => vec![&mut options.path],
            Self::Http(options) => options.paths_mut().collect(),
            Self::Stdout {} => Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "../../../../fuzz/checks/config.rs"]
mod check;
#[cfg(test)]
#[path = "../../../../fuzz/checks/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_found_inputs_are_refused_or_can_be_used() {
        for (_, input) in seeds::seeds("config") {
            let text = String::from_utf8_lossy(&input);
            check::check(&text);
            // Each line missing, and each twice.
            let lines: Vec<&str> = text.lines().collect();
            for n in 0..lines.len() {
                check::check(&[&lines[..n], &lines[n + 1..]].concat().join("\n"));
                check::check(&[&lines[..=n], &lines[n..]].concat().join("\n"));
            }
        }
    }

    const TAILER: &str = "[tailer]\ndirectory = 'logs'\n";

    fn check(rest: &str, expected: &str) {
        let text = format!("{TAILER}{rest}");
        match parse(Path::new("p.toml"), &text) {
            Ok(pipeline) => panic!("accepted {rest}: {pipeline:?}"),
            Err(e) => assert_eq!(e.to_string(), expected, "{rest}"),
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_a_remedy() {
        check("patern = '*'", "p.toml:3: unknown option `patern`; did you mean `pattern`?");
        check("follow = 'yes'", "p.toml:3: invalid type: string, expected a boolean");
        check("ordering = 'stric'", "p.toml:3: `stric` is none of `name`, `strict`; did you mean `strict`?");
        check(
            "poll_watcher = '5'",
            "p.toml:3: `5` is not a duration (time unit needed, for example 5sec or 5ms); write one such as '500ms'",
        );
        check("[[consumer]]\nname = 'a'", "p.toml:3: missing option `processor`");
        check(
            "[[consumer]]\nname = 'a'\nprocessor = {}",
            "p.toml:5: give one of `wasm`, `lua`, `stdout`, `file` and `http`",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdot = {} }",
            "p.toml:5: unknown option `stdot`; did you mean `stdout`?",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\nfilter = { wasm = 'f', grants = { http = [] } }",
            "p.toml:6: `grants` is not for filters: a filter gets no capability",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\nsink = { fiel = { path = 'x' } }",
            "p.toml:6: unknown option `fiel`; did you mean `file`?",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\non_error = { then = 'quarantin' }",
            "p.toml:6: `quarantin` is none of `quarantine`, `stop`; did you mean `quarantine`?",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\ncheckpoint = '../a'",
            "p.toml:6: checkpoint_name `../a` starts with a dot; the dot of the file's name is added for you",
        );
        check(
            "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\nsink = { file = { path = 'x' } }",
            "p.toml:4: the `sink` of consumer `a` takes what a plug-in emits; a built-in processor emits nothing",
        );
        let filter = |filter: &str| {
            format!("[[consumer]]\nname = 'a'\nprocessor = {{ stdout = {{}} }}\nfilter = {filter}")
        };
        check(&filter("[]"), "p.toml:6: an empty list; leave it out to have everything");
        check(&filter("'f.lua'"), "p.toml:6: invalid type: string, expected a table, or a list of tables");
        check(
            &filter("[{ wasm = 'f' },\n{ lua = 'f', limits = {} }]"),
            "p.toml:7: `limits` is for `wasm`: a Lua function has none",
        );
        let parallelism = |n: &str, processor: &str| {
            format!(
                "[[consumer]]\nname = 'a'\nprocessor = {{ {processor} = {{ path = 'x' }} }}\nparallelism = {n}"
            )
        };
        let from_1_to_64 = "must be a whole number from 1 to 64";
        check(&parallelism("0", "file"), &format!("p.toml:6: `parallelism` {from_1_to_64}, not 0"));
        check(&parallelism("65", "file"), &format!("p.toml:6: `parallelism` {from_1_to_64}, not 65"));
        check(
            &parallelism("2", "file"),
            "p.toml:4: the `parallelism` of consumer `a` is for plug-ins and `http`: a file is written by one. Leave it out; \
             filters run on all cores as it is",
        );
        check(&filter("[{ wasn = 'f' }]"), "p.toml:6: unknown option `wasn`; did you mean `wasm`?");
        let two = "[[consumer]]\nname = 'a'\nprocessor = { stdout = {} }\n";
        check(&two.repeat(2), "p.toml:7: a second consumer is called `a`");
        check(
            &format!("{two}[[consumer]]\nname = 'b'\ncheckpoint = 'a'\nprocessor = {{ stdout = {{}} }}"),
            "p.toml:8: checkpoint `a` belongs to consumer `a` already",
        );
    }

    #[test]
    fn a_slip_in_when_plugins_are_read_again_is_named() {
        let error = parse(Path::new("p.toml"), "plugin_reload = 'on_chang'\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "p.toml:1: `on_chang` is none of `on_signal`, `on_change`; did you mean `on_change`?"
        );
    }

    #[test]
    fn relative_paths_are_taken_from_the_files_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        let consumer = "[[consumer]]\nname = 'a'\nfilter = { lua = 'f.lua', config = { a = [1] } }\n\
            processor = { lua = '/p.lua' }\nsink = { http = { url = { file = 'url' } } }\n";
        std::fs::write(&path, format!("plugin_cache = 'code'\n{TAILER}{consumer}")).unwrap();
        let mut pipeline = load(&path).unwrap();
        let paths: Vec<_> = pipeline.paths().map(|p| p.clone()).collect();
        let beside = |name: &str| folder.path().join(name);
        assert_eq!(paths, [beside("logs"), beside("code"), beside("f.lua"), "/p.lua".into(), beside("url")]);
        assert_eq!(pipeline.consumers[0].filter[0].config, serde_json::json!({"a": [1]}));
    }
}
