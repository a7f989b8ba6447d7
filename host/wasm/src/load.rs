//! From a file to a component that is known to fit.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use wasmtime::component::types::{ComponentExtern, ComponentItem};
use wasmtime::component::{Component, InstancePre};

use crate::call::CallError;
use crate::compile::Key;
use crate::grants::Grants;
use crate::host::{Host, Http, Keeps, Wants};
use crate::limits::Limits;
use crate::state::{State, clip};
use crate::v0_1::{PACKAGE, VERSION};

/// A plug-in was not loaded.
#[derive(Debug, Error)]
#[error("{}: {kind}", path.display())]
pub struct LoadError {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub kind: LoadErrorKind,
}

/// Why a plug-in was not loaded, and what to do about it.
#[derive(Debug, Error)]
pub enum LoadErrorKind {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// It is larger than any plug-in.
    #[error("larger than {} MiB, so it is not read; a plug-in has a few", MAX_BYTES >> 20)]
    TooLarge,
    /// It is no WebAssembly at all.
    #[error("not a WebAssembly component; a plug-in is a binary file that begins with the bytes `\\0asm`")]
    NotWasm,
    /// It is WebAssembly, but a module.
    #[error(
        "a WebAssembly module, not a component; make one of it with `tailweir plugin build` or `wasm-tools component new`"
    )]
    Module,
    /// It is a component that cannot be compiled: damaged, cut off, or of a later kind.
    #[error("damaged, or made for a later WebAssembly runtime; build it or copy it again ({0})")]
    Damaged(String),
    /// It speaks a version of the interface that this host does not know.
    #[error(
        "built for {PACKAGE}@{found}, and this program serves {PACKAGE}@{VERSION}; use a plug-in or a tailweir of the other version"
    )]
    Version {
        /// The version that it was built for.
        found: String,
    },
    /// It is a component that is no plug-in.
    #[error(
        "a component, but no tailweir plug-in: it exports neither {PACKAGE}/filter nor {PACKAGE}/process; build it for one \
         of the worlds `filter-plugin` and `processor-plugin`"
    )]
    NoPlugin,
    /// It is a plug-in of the other kind.
    #[error("a {found}, not a {wanted}; use it where a {found} is expected")]
    WrongKind {
        /// What it is: `filter` or `processor`.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It imports something that no plug-in gets.
    #[error("it imports `{import}`, which this program does not offer to a {kind}; build it without")]
    UnknownImport {
        /// The import's name.
        import: String,
        /// What it is: `filter` or `processor`.
        kind: &'static str,
    },
    /// It is a filter that imports HTTP.
    #[error(
        "a filter cannot send HTTP requests, and this one imports `{import}`; build it without, or make it a processor"
    )]
    FilterHttp {
        /// The import's name.
        import: String,
    },
    /// It is a filter that imports state.
    #[error(
        "a filter cannot keep state, and this one imports `{import}`; build it without, or make it a processor"
    )]
    FilterState {
        /// The import's name.
        import: String,
    },
    /// It is a processor that keeps state, and is to be run in several instances at once.
    #[error(
        "it keeps state, which is made of one batch after the other, so it cannot deal with several at once; leave `parallelism` \
         out, or build it without `state`"
    )]
    ParallelState,
    /// It is a processor that sends HTTP requests, and no origin is granted.
    #[error(
        "it sends HTTP requests, so it needs a grant: name the origins that it may reach, as in \
         `grants.http = [\"https://hooks.example.com\"]`"
    )]
    MissingGrant,
    /// An import or export has the right name and another shape.
    #[error(
        "it does not have the shape of a {PACKAGE}@{VERSION} plug-in; build it against the released interface ({0})"
    )]
    Shape(String),
    /// No instance of it can be made.
    #[error("cannot start it: {0}")]
    Start(String),
    /// What it gives as the JSON schema of its configuration is none that can be used.
    #[error(
        "the schema that it gives for its configuration cannot be used, which is a mistake of the plug-in's: {0}; repair \
         `config-schema` in its description, or leave it empty"
    )]
    Schema(String),
    /// The configuration does not fit the schema that it gives: where, as JSON pointers, and what was expected there.
    #[error(
        "its configuration is not as its schema wants it: {0}; `tailweir plugin inspect` shows the schema"
    )]
    ConfigSchema(String),
    /// It refuses its configuration.
    #[error("it does not accept its configuration: {0}")]
    Config(String),
    /// It crashed while it was set up.
    #[error("{0}")]
    Call(#[source] CallError),
}

/// What a plug-in says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// What it cannot do without, such as `http`.
    pub needs: Vec<String>,
    /// JSON schema of its configuration, or empty. One of more than [`MAX_SCHEMA_BYTES`] cannot be used, and is not whole.
    pub config_schema: String,
}

/// How many bytes the schema of a configuration may have: 1 MiB.
pub const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// How many words may say what a plug-in needs.
const MAX_NEEDS: usize = 100;

impl Description {
    /// Without what no plug-in has to say at such length. Of a schema that is too long, so much is left that this is seen.
    pub(crate) fn clipped(self, limits: &Limits) -> Self {
        let Self { name, version, needs, mut config_schema } = self;
        config_schema.truncate(config_schema.ceil_char_boundary(MAX_SCHEMA_BYTES + 1));
        let needs = needs.into_iter().take(MAX_NEEDS).map(|need| clip(&need, limits)).collect();
        Self { name: clip(&name, limits), version: clip(&version, limits), needs, config_schema }
    }
}

/// The two kinds of plug-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It says which records to keep.
    Filter,
    /// It deals with batches.
    Processor,
}

impl Kind {
    /// What it is called: `filter` or `processor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Processor => "processor",
        }
    }

    /// The interface that a plug-in of this kind exports.
    fn interface(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Processor => "process",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Filter => Self::Processor,
            Self::Processor => Self::Filter,
        }
    }
}

/// A component that fits, with what its instances are made with.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    /// The host outlives its plug-ins.
    pub(crate) host: Arc<Host>,
    pub(crate) pre: InstancePre<State>,
    /// The configuration as JSON text.
    pub(crate) config: String,
    pub(crate) grants: Arc<Grants>,
    pub(crate) limits: Limits,
    /// Where it is used, if that is told with its name.
    place: Option<Arc<str>>,
    /// Whether it keeps state.
    pub(crate) keeps: Keeps,
    /// The file's name without its extension, until the plug-in has said its own.
    pub(crate) stem: Arc<str>,
    /// Of the file's content.
    pub(crate) key: Key,
}

/// What the operator says about a plug-in.
pub(crate) struct Setup {
    /// The configuration as JSON text.
    pub(crate) config: String,
    pub(crate) grants: Arc<Grants>,
    pub(crate) limits: Limits,
    /// Where it is used, if that is to be told with its name.
    pub(crate) place: Option<Arc<str>>,
}

impl Setup {
    pub(crate) fn new(config: &serde_json::Value, grants: Grants, limits: Limits) -> Self {
        Self { config: config.to_string(), grants: Arc::new(grants), limits, place: None }
    }
}

impl Loaded {
    pub(crate) fn new(host: &Arc<Host>, path: &Path, kind: Kind, setup: Setup) -> Result<Self, LoadError> {
        let bytes = read(path)?;
        let key = Key::of(host.engine(), &bytes);
        Self::of_bytes(host, path, (&key, &bytes), kind, setup)
    }

    /// What is in the file now, with the same setup. `None` if that is what was loaded.
    pub(crate) fn again(&self, kind: Kind) -> Result<Option<Self>, LoadError> {
        let bytes = read(&self.path)?;
        let key = Key::of(self.host.engine(), &bytes);
        if key == self.key {
            return Ok(None);
        }
        let setup = Setup {
            config: self.config.clone(),
            grants: self.grants.clone(),
            limits: self.limits.clone(),
            place: self.place.clone(),
        };
        Self::of_bytes(&self.host, &self.path, (&key, &bytes), kind, setup).map(Some)
    }

    fn of_bytes(
        host: &Arc<Host>,
        path: &Path,
        (key, bytes): (&Key, &[u8]),
        kind: Kind,
        setup: Setup,
    ) -> Result<Self, LoadError> {
        let failed = |kind| LoadError { path: path.to_owned(), kind };
        let component = component(host, path, key, bytes).map_err(failed)?;
        let wants = check_interface(host, &component, kind).map_err(failed)?;
        if wants.http == Http::Granted && setup.grants.http.is_empty() {
            return Err(failed(LoadErrorKind::MissingGrant));
        }
        Self::link(host, path, (key, &component), wants, setup)
    }

    /// Links a component that was found to fit.
    pub(crate) fn link(
        host: &Arc<Host>,
        path: &Path,
        (key, component): (&Key, &Component),
        wants: Wants,
        setup: Setup,
    ) -> Result<Self, LoadError> {
        let Setup { config, grants, limits, place } = setup;
        let failed = |kind| LoadError { path: path.to_owned(), kind };
        let pre = host.linker(wants.http).and_then(|linker| linker.instantiate_pre(component));
        Ok(Self {
            path: path.to_owned(),
            host: host.clone(),
            pre: pre.map_err(|e| failed(LoadErrorKind::Shape(format!("{e:#}"))))?,
            config,
            grants,
            limits,
            place,
            keeps: wants.state,
            key: *key,
            stem: path.file_stem().unwrap_or_default().to_string_lossy().into(),
        })
    }

    /// How a plug-in of this name is called where it is told of.
    pub(crate) fn told_as(&self, name: &str) -> Arc<str> {
        match &self.place {
            Some(place) => self.host.labelled(&format!("{name} ({place})")),
            None => self.host.labelled(name),
        }
    }

    pub(crate) fn error(&self, kind: LoadErrorKind) -> LoadError {
        LoadError { path: self.path.clone(), kind }
    }
}

/// A plug-in with its language's whole runtime has some 40 MiB.
const MAX_BYTES: u64 = 256 << 20;

/// Opens a plug-in's file. To open or read anything else, a pipe for one, may take for ever.
fn open_file(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(path)
}

/// The content of a plug-in's file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |kind| LoadError { path: path.to_owned(), kind };
    let mut bytes = Vec::new();
    let read = open_file(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read.map_err(|e| failed(LoadErrorKind::Read(e)))? as u64 {
        0..=MAX_BYTES => Ok(bytes),
        _ => Err(failed(LoadErrorKind::TooLarge)),
    }
}

/// Compiles a component.
pub(crate) fn component(
    host: &Host,
    path: &Path,
    key: &Key,
    bytes: &[u8],
) -> Result<Component, LoadErrorKind> {
    check_header(bytes)?;
    host.compile(path, key, bytes).map_err(|e| LoadErrorKind::Damaged(e.root_cause().to_string()))
}

/// The names of what a component imports, if it asks for something by that, and exports.
pub(crate) fn interface(host: &Host, component: &Component) -> (Vec<String>, Vec<String>) {
    let (engine, ty) = (host.engine(), component.component_type());
    let imports = ty.imports(engine).filter(|(_, import)| needs_definition(import));
    (
        imports.map(|(name, _)| name.to_owned()).collect(),
        ty.exports(engine).map(|(n, _)| n.to_owned()).collect(),
    )
}

/// The kind of plug-in that exports these, if it is one.
pub(crate) fn kind_of(exports: &[String]) -> Option<Kind> {
    let exported = |kind: &Kind| exports.iter().any(|name| is_ours(name, kind.interface()));
    [Kind::Filter, Kind::Processor].into_iter().find(exported)
}

/// The first eight bytes tell components from modules, and both from anything else.
fn check_header(bytes: &[u8]) -> Result<(), LoadErrorKind> {
    match bytes.strip_prefix(b"\0asm") {
        None => Err(LoadErrorKind::NotWasm),
        Some([1, 0, 0, 0, ..]) => Err(LoadErrorKind::Module),
        Some(_) => Ok(()),
    }
}

/// Checks the names of imports and exports; their types are checked when it is linked. Tells what it imports that not all do.
pub(crate) fn check_interface(
    host: &Host,
    component: &Component,
    kind: Kind,
) -> Result<Wants, LoadErrorKind> {
    let (imports, exports) = interface(host, component);
    if let Some(found) = exports.iter().chain(&imports).find_map(|name| other_version(name)) {
        return Err(LoadErrorKind::Version { found });
    }
    let exports_kind = |kind: Kind| exports.iter().any(|name| is_ours(name, kind.interface()));
    if !exports_kind(kind) {
        return Err(match exports_kind(kind.other()) {
            true => LoadErrorKind::WrongKind { found: kind.other().name(), wanted: kind.name() },
            false => LoadErrorKind::NoPlugin,
        });
    }
    let mut wants = Wants { http: Http::Withheld, state: Keeps::Nothing };
    for import in imports {
        match offer(&import) {
            Some(Offer::Always) => {}
            Some(Offer::Http) if kind == Kind::Processor => wants.http = Http::Granted,
            Some(Offer::Http) => return Err(LoadErrorKind::FilterHttp { import }),
            Some(Offer::State) if kind == Kind::Processor => wants.state = Keeps::State,
            Some(Offer::State) => return Err(LoadErrorKind::FilterState { import }),
            None => {
                return Err(LoadErrorKind::UnknownImport { import, kind: kind.name() });
            }
        }
    }
    Ok(wants)
}

/// An import that only names types asks for nothing.
fn needs_definition(import: &ComponentExtern<'_>) -> bool {
    !matches!(import.ty, ComponentItem::Type(_))
}

enum Offer {
    Always,
    Http,
    State,
}

/// On what terms an interface is offered, if it is.
fn offer(import: &str) -> Option<Offer> {
    if ["records", "log", "metrics"].iter().any(|interface| is_ours(import, interface)) {
        return Some(Offer::Always);
    }
    if is_ours(import, "state") {
        return Some(Offer::State);
    }
    let (package, rest) = import.strip_prefix("wasi:")?.split_once('/')?;
    let (interface, version) = rest.split_once('@')?;
    if !version.starts_with("0.2.") {
        return None;
    }
    match (package, interface) {
        ("cli" | "clocks" | "filesystem" | "io" | "random" | "sockets", _) => Some(Offer::Always),
        ("http", "outgoing-handler" | "types") => Some(Offer::Http),
        _ => None,
    }
}

/// Whether `name` is this interface of our package, in a version that this host speaks.
fn is_ours(name: &str, interface: &str) -> bool {
    let rest = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/'));
    rest.and_then(|rest| rest.split_once('@'))
        .is_some_and(|(i, version)| i == interface && version == VERSION)
}

/// The version of our package in `name`, if it is one that this host does not speak.
fn other_version(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    let version = rest.split_once('@').map_or("no version", |(_, version)| version);
    (version != VERSION).then(|| version.to_owned())
}
