//! A batch as the object that scripts get.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;

use mlua::{Lua, LuaString, MetaMethod, UserData, UserDataMethods, UserDataRef, Value};
use tailweir_core::state::MAX_PAGE;
use tailweir_core::{Batch, Bucket, StateError, StateKeeper, StateLimits};

use crate::error::fail;
use crate::options::Options;
use crate::record::{BatchHandle, Charge, Records};

/// What `batch:commit()` does. It may be called again if it failed.
pub type Commit = Box<dyn FnMut() -> CommitFuture>;

/// The end of a commit. One that is ready at once does not suspend the script.
pub type CommitFuture = Pin<Box<dyn Future<Output = mlua::Result<()>>>>;

/// The batch object of the Lua API: `records`, `iter_records`, `consumer_name`, `id`, `positions`, `state`, `commit` and `#`.
///
/// Records may be asked for any number of times, also after the commit; each time they are new tables.
pub struct LuaBatch {
    batch: Arc<Batch>,
    commit: RefCell<CommitState>,
    /// `None` if nothing is kept.
    state: Option<Arc<dyn StateKeeper>>,
    _charge: Charge,
}

/// The bucket of what is written in Lua: a consumer has one script or file.
const BUCKET: &str = "lua";

enum CommitState {
    /// Whoever runs the script commits.
    ByHost,
    Possible(Commit),
    UnderWay,
    Done,
}

impl LuaBatch {
    /// A batch that the script commits with `commit`, or that its host commits if that is `None`.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn new(lua: &Lua, batch: Arc<Batch>, commit: Option<Commit>) -> mlua::Result<Self> {
        let charge = Records::install(lua)?.charge(lua, batch.footprint())?;
        let commit = RefCell::new(commit.map_or(CommitState::ByHost, CommitState::Possible));
        Ok(Self { batch, commit, state: None, _charge: charge })
    }

    /// Has `batch:state()` give what is kept there.
    #[must_use]
    pub fn with_state(mut self, state: Arc<dyn StateKeeper>) -> Self {
        self.state = Some(state);
        self
    }

    /// Where the state is that goes with the batch.
    pub(crate) fn keeper(&self) -> Option<&Arc<dyn StateKeeper>> {
        self.state.as_ref()
    }

    /// The batch.
    pub fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    fn handle(&self, lua: &Lua) -> mlua::Result<(Records, BatchHandle)> {
        let records = Records::install(lua)?;
        let handle = records.batch_handle(lua, self.batch.clone())?;
        Ok((records, handle))
    }

    /// Takes the commit hook out, or says why there is none.
    fn begin_commit(&self) -> mlua::Result<Commit> {
        match self.commit.replace(CommitState::UnderWay) {
            CommitState::Possible(commit) => Ok(commit),
            other => {
                let why = match other {
                    CommitState::ByHost => {
                        "this batch is committed by the host, once the processor has answered; do not commit it here"
                    }
                    CommitState::UnderWay => "batch is being committed already",
                    _ => "batch has already been committed",
                };
                self.commit.replace(other);
                Err(fail(why))
            }
        }
    }
}

async fn commit(batch: UserDataRef<LuaBatch>) -> mlua::Result<()> {
    /// Puts the hook back unless the commit came to its end, also if the script is dropped meanwhile.
    struct Attempt<'a>(&'a LuaBatch, Option<Commit>);
    impl Drop for Attempt<'_> {
        fn drop(&mut self) {
            self.0.commit.replace(self.1.take().map_or(CommitState::Done, CommitState::Possible));
        }
    }
    let mut attempt = Attempt(&batch, Some(batch.begin_commit()?));
    if let Some(hook) = attempt.1.as_mut() {
        hook().await?;
    }
    attempt.1 = None;
    Ok(())
}

impl UserData for LuaBatch {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("records", |lua, this, ()| {
            let (records, handle) = this.handle(lua)?;
            records.records_table(lua, &handle)
        });
        methods.add_method("iter_records", |lua, this, ()| {
            let (records, handle) = this.handle(lua)?;
            records.records_iterator(lua, &handle)
        });
        methods.add_method("consumer_name", |_, this, ()| Ok(this.batch.consumer().to_owned()));
        methods.add_method("id", |_, this, ()| Ok(this.batch.id().as_str().to_owned()));
        methods.add_method("positions", |lua, this, ()| {
            let positions = lua.create_table_with_capacity(this.batch.len(), 0)?;
            for (n, record) in this.batch.iter().enumerate() {
                let position = record.position();
                let entry = lua.create_table_with_capacity(0, 3)?;
                entry.raw_set("segment", position.segment.as_str())?;
                entry.raw_set("line", position.line)?;
                entry.raw_set("offset", position.offset)?;
                positions.raw_set(n + 1, entry)?;
            }
            Ok(positions)
        });
        methods.add_method("state", |lua, this, limits: Value| {
            let limits = state_limits(lua, limits)?;
            let open = |keeper: &Arc<dyn StateKeeper>| keeper.open(BUCKET, &limits);
            let bucket = this.state.as_ref().map_or(Err(StateError::NoCheckpoint), open);
            bucket.map(LuaState).map_err(|e| refused("state", e))
        });
        methods.add_async_method("commit", |_, this, ()| commit(this));
        methods.add_meta_method(MetaMethod::Len, |_, this, ()| Ok(this.batch.len()));
    }
}

/// The names are those of a component's limits.
const STATE_LIMITS: &[&str] =
    &["state_key_bytes", "state_value_bytes", "state_keys", "state_bytes", "state_changes"];

/// The limits of state: those that a script gives, and the usual ones.
fn state_limits(lua: &Lua, given: Value) -> mlua::Result<StateLimits> {
    let mut limits = StateLimits::default();
    if given.is_nil() {
        return Ok(limits);
    }
    let options = Options::new(lua, "batch:state", given, STATE_LIMITS)?;
    let StateLimits { key_bytes, value_bytes, keys, bytes, changes } = &mut limits;
    for (name, limit) in STATE_LIMITS.iter().zip([key_bytes, value_bytes, keys, bytes, changes]) {
        if let Some(size) = options.size(name)? {
            *limit = size as u64;
        }
    }
    Ok(limits)
}

/// What `batch:state()` returns: `get`, `set`, `delete`, `list` and `undo`.
struct LuaState(Bucket);

/// Why state cannot be had, read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{function}: {error}")]
pub(crate) struct StateRefused {
    function: &'static str,
    error: StateError,
}

impl StateRefused {
    /// Whether it is how the consumer is set up that must be mended, so that no further attempt can succeed.
    pub(crate) fn is_for_good(&self) -> bool {
        matches!(self.error, StateError::Parallel | StateError::NoCheckpoint)
    }
}

fn refused(function: &'static str, error: StateError) -> mlua::Error {
    mlua::Error::external(StateRefused { function, error })
}

/// A key, which is text: other programs shall be able to read it.
fn key(function: &str, key: &LuaString) -> mlua::Result<String> {
    match key.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(fail(format!("{function}: a key must be UTF-8"))),
    }
}

impl UserData for LuaState {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |lua, this, name: LuaString| {
            let value = this.0.get(&key("get", &name)?).map_err(|e| refused("get", e))?;
            value.map(|value| lua.create_string(&*value)).transpose()
        });
        methods.add_method("set", |_, this, (name, value): (LuaString, LuaString)| {
            this.0.set(&key("set", &name)?, &value.as_bytes()).map_err(|e| refused("set", e))
        });
        methods.add_method("delete", |_, this, name: LuaString| {
            this.0.delete(&key("delete", &name)?).map_err(|e| refused("delete", e))
        });
        type ListArguments = (Option<LuaString>, Option<LuaString>, Option<usize>);
        methods.add_method("list", |lua, this, (prefix, after, limit): ListArguments| {
            let prefix = prefix.map(|prefix| key("list", &prefix)).transpose()?.unwrap_or_default();
            let after = after.map(|after| key("list", &after)).transpose()?;
            let page = this.0.list(&prefix, after.as_deref(), limit.unwrap_or(MAX_PAGE));
            let page = page.map_err(|e| refused("list", e))?;
            Ok((lua.create_sequence_from(page.keys)?, page.more))
        });
        methods.add_method("undo", |_, this, ()| {
            this.0.undo();
            Ok(())
        });
    }
}
