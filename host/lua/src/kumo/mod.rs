//! The `kumo` module that scripts use, one file per namespace.

mod http;
mod jsonl;
mod log;
mod time;
mod unsupported;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use mlua::{Function, Lua, Table, Value};
use tailweir_core::EventSink;
use tailweir_pipeline::CheckpointName;

use crate::record::Records;

/// Adds something to the `kumo` table.
pub type Extension = Box<dyn Fn(&Lua, &Table) -> mlua::Result<()>>;

/// Changes what goes to the log, by the text of a filter; an error says what is wrong with the text.
pub type SetLogFilter = Box<dyn Fn(&str) -> Result<(), String>>;

/// What is to be done before the process ends with an exit code. Returns the code that it ends with.
pub type BeforeExit = Box<dyn Fn(i32) -> i32>;

/// What the program that hosts scripts provides.
pub struct Hooks {
    /// What `kumo.version` says.
    pub version: String,
    /// Called in order with the `kumo` table once it is complete. Each table that they put into it can be required,
    /// as `kumo.<name>`.
    pub extensions: Vec<Extension>,
    /// What `kumo.set_diagnostic_log_filter` does.
    pub set_log_filter: Option<SetLogFilter>,
    /// Receives the events of the tailers that scripts open.
    pub events: Arc<dyn EventSink>,
    /// Where a script's tailer really reads, in a replay.
    pub redirect: Option<Redirect>,
    /// What a script's `os.exit` does last, with the exit code; it returns the one that the process ends with.
    pub before_exit: Option<BeforeExit>,
}

/// Gives the tailer of one checkpoint other segments than it asks for. Any other tailer is refused.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// The directory that the tailer must ask for.
    pub directory: PathBuf,
    /// The checkpoint that it must ask for.
    pub checkpoint: CheckpointName,
    /// The directory that it reads, to its end, and keeps its checkpoint in.
    pub to: PathBuf,
}

impl Default for Hooks {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            version,
            extensions: Vec::new(),
            set_log_filter: None,
            events: Arc::new(()),
            redirect: None,
            before_exit: None,
        }
    }
}

/// What the functions of one Lua state share.
pub(crate) struct Host {
    set_log_filter: Option<SetLogFilter>,
    events: Arc<dyn EventSink>,
    redirect: Option<Redirect>,
    handlers: RefCell<BTreeMap<String, Function>>,
    open: RefCell<Vec<Weak<dyn Close>>>,
    unfinished: RefCell<Vec<Weak<dyn Close>>>,
    closing: Cell<bool>,
}

/// Something that has to be closed before the Lua state goes, or before the process ends.
trait Close {
    fn close(&self);
}

impl Host {
    /// The function that a script registered last for an event.
    pub(crate) fn handler(&self, event: &str) -> Option<Function> {
        self.handlers.borrow().get(event).cloned()
    }

    /// Ends the iteration of every tailer: of those that are open, and of those to come.
    pub(crate) fn close_all(&self) {
        self.closing.set(true);
        let open = self.open.take();
        open.iter().filter_map(Weak::upgrade).for_each(|open| open.close());
    }

    /// Finishes the segment of every writer.
    pub(crate) fn finish_all(&self) {
        let unfinished = self.unfinished.take();
        unfinished.iter().filter_map(Weak::upgrade).for_each(|writer| writer.close());
    }

    /// Sees to it that something is closed when the script ends the process: it may be used until then.
    fn remember_to_finish(&self, opened: Weak<dyn Close>) {
        let mut unfinished = self.unfinished.borrow_mut();
        unfinished.retain(|writer| writer.strong_count() > 0);
        unfinished.push(opened);
    }

    /// Sees to it that something is closed when the script has to end. It may hold functions of the Lua state, which
    /// hold the state.
    fn remember(&self, opened: Weak<dyn Close>) {
        if self.closing.get() {
            return opened.upgrade().map_or((), |opened| opened.close());
        }
        let mut open = self.open.borrow_mut();
        open.retain(|open| open.strong_count() > 0);
        open.push(opened);
    }
}

/// Makes the `kumo` module in a Lua state, so that `require 'kumo'` and `require 'kumo.http'` find it. No global is set.
///
/// # Errors
/// If the state is out of memory, has no `package` library, or an extension fails.
pub fn install(lua: &Lua, hooks: Hooks) -> mlua::Result<Table> {
    Ok(build(lua, hooks)?.0)
}

pub(crate) fn build(lua: &Lua, hooks: Hooks) -> mlua::Result<(Table, Rc<Host>)> {
    Records::install(lua)?;
    let host = Rc::new(Host {
        set_log_filter: hooks.set_log_filter,
        events: hooks.events,
        redirect: hooks.redirect,
        handlers: RefCell::default(),
        open: RefCell::default(),
        unfinished: RefCell::default(),
        closing: Cell::new(false),
    });
    let kumo = lua.create_table()?;
    kumo.set("version", hooks.version)?;
    kumo.set("on", on(lua, &host)?)?;
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    kumo.set("available_parallelism", lua.create_function(move |_, ()| Ok(parallelism))?)?;
    log::install(lua, &kumo, &host)?;
    let (time, serde) = (time::module(lua)?, crate::serde::install(lua)?);
    kumo.set("sleep", time.get::<Value>("sleep")?)?;
    for name in ["json_encode", "json_encode_pretty", "json_parse", "json_load"] {
        kumo.set(name, serde.get::<Value>(name)?)?;
    }
    kumo.set("time", time)?;
    kumo.set("serde", serde)?;
    kumo.set("http", http::module(lua)?)?;
    kumo.set("jsonl", jsonl::module(lua, &host)?)?;
    unsupported::install(lua, &kumo)?;
    for extension in &hooks.extensions {
        extension(lua, &kumo)?;
    }
    let loaded: Table = lua.globals().get::<Table>("package")?.get("loaded")?;
    loaded.set("kumo", &kumo)?;
    kumo.for_each(|name: String, value: Value| match value {
        Value::Table(module) => loaded.set(format!("kumo.{name}"), module),
        _ => Ok(()),
    })?;
    Ok((kumo, host))
}

/// `kumo.on(event, fn)`: the last function registered for an event is the one that is called.
fn on(lua: &Lua, host: &Rc<Host>) -> mlua::Result<Function> {
    let host = Rc::downgrade(host);
    lua.create_function(move |_, (event, handler): (String, Function)| {
        let Some(host) = host.upgrade() else { return Ok(()) };
        let first = host.handlers.borrow_mut().insert(event.clone(), handler).is_none();
        if first && event != "main" {
            tracing::warn!(target: "lua", "kumo.on('{event}'): this event never comes here; only 'main' is called");
        }
        Ok(())
    })
}
