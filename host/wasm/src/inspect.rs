//! What a plug-in is and what it wants, told before it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compile::Key;
use crate::grants::Grants;
use crate::host::{Host, Http, Keeps, Wants};
use crate::instance::{OnTick, Template, run_now};
use crate::limits::Limits;
use crate::load::{
    Description, Kind, LoadError, LoadErrorKind, Loaded, Setup, check_interface, component, interface,
    kind_of, read,
};
use crate::processor::wait_for;
use crate::schema;
use crate::v0_1::{PACKAGE, VERSION, filter::FilterPlugin, processor::StateProcessorPlugin};

/// What is known of a plug-in that was not set up.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Its file.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// The world that it was built for, of the package in [`interface`](Self::interface).
    pub world: &'static str,
    /// Package and version of the interface: `tailweir:plugin@0.1.0`.
    pub interface: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The grants that it cannot do without: `http`.
    pub grants: Vec<&'static str>,
    /// What it says about itself.
    pub description: Description,
}

impl Inspection {
    /// Whether the schema that it gives for its configuration, if any, can be used, without which it is not loaded.
    ///
    /// # Errors
    /// Why it cannot, as loading says it.
    pub fn check_schema(&self) -> Result<(), LoadError> {
        let looked = schema::look(&self.description.config_schema);
        looked.map_err(|kind| LoadError { path: self.path.clone(), kind })
    }
}

pub(crate) fn inspect(host: &Arc<Host>, path: &Path, limits: Limits) -> Result<Inspection, LoadError> {
    let failed = |kind| LoadError { path: path.to_owned(), kind };
    let bytes = read(path)?;
    let key = Key::of(host.engine(), &bytes);
    let component = component(host, path, &key, &bytes).map_err(failed)?;
    let (imports, exports) = interface(host, &component);
    // What is no plug-in of either kind is refused as whatever it is instead.
    let kind = kind_of(&exports).unwrap_or(Kind::Filter);
    let wants = check_interface(host, &component, kind).map_err(failed)?;
    // It is asked who it is, which it must answer without any grant.
    let setup = Setup::new(&serde_json::Value::Null, Grants::default(), limits);
    let loaded = Loaded::link(host, path, (&key, &component), wants, setup)?;
    let description = match kind {
        Kind::Filter => {
            let template = Template::<FilterPlugin>::new(loaded, OnTick::Continue)?;
            let described = run_now(template.describe());
            described
                .unwrap_or_else(|waits| Err(LoadErrorKind::Start(waits.to_string())))
                .map(|(_, told)| told)
        }
        Kind::Processor => {
            let template = Template::<StateProcessorPlugin>::new(loaded, OnTick::Yield)?;
            wait_for(&template, async { template.describe().await.map(|(_, told)| told) })
        }
    };
    Ok(Inspection {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        kind,
        world: match (kind, wants) {
            (Kind::Filter, _) => "filter-plugin",
            (Kind::Processor, Wants { http: Http::Withheld, state: Keeps::Nothing }) => "processor-plugin",
            (Kind::Processor, Wants { http: Http::Granted, state: Keeps::Nothing }) => {
                "http-processor-plugin"
            }
            (Kind::Processor, Wants { http: Http::Withheld, state: Keeps::State }) => {
                "state-processor-plugin"
            }
            (Kind::Processor, Wants { http: Http::Granted, state: Keeps::State }) => {
                "http-state-processor-plugin"
            }
        },
        interface: format!("{PACKAGE}@{VERSION}"),
        imports,
        grants: Vec::from_iter((wants.http == Http::Granted).then_some("http")),
        description: description.map_err(failed)?,
    })
}
