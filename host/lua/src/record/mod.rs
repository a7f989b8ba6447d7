//! Records as Lua tables that look their fields up in the batch's bytes when they are asked for.
//!
//! To a script a record is a plain table: `type(r) == 'table'`, it can be indexed, walked, measured, changed, and handed
//! to `table.*`. JSON null is an absent member, arrays count from 1, 64-bit integers are exact, and of a key that is
//! there twice the last value counts. Objects and arrays within it are such tables too. It remains valid when its batch
//! is gone.
//!
//! To Rust it is an **empty** table: `mlua::Table::pairs` and serde see nothing in it. [`Table::get`](mlua::Table::get)
//! and other methods that heed metamethods work; for the rest there are [`Records::for_each_pair`],
//! [`Records::encode`], [`Records::to_json`] and [`Records::deserialize`], which take any Lua value.

mod encode;
mod lazy;
mod memo;

use std::rc::Rc;
use std::sync::Arc;

use mlua::{AnyUserData, Function, Lua, Table, Value, ffi};
use serde::de::DeserializeOwned;
use tailweir_core::Batch;

pub(crate) use lazy::Charge;
use lazy::Pace;

/// How many bytes of batches may wait for Lua's collector, beyond those in use.
const ALLOWANCE: usize = 32 << 20;

/// What makes and reads lazy records in one Lua state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    pace: Rc<Pace>,
}

/// A batch within a Lua state: what its lazy records hold on to.
#[derive(Debug, Clone)]
pub struct BatchHandle {
    userdata: AnyUserData,
    len: usize,
}

impl Records {
    /// Prepares a Lua state: metatables, and `next`, `getmetatable`, `setmetatable`, `rawget`, `rawset` and `rawlen` that
    /// know lazy records. To be called before any script runs; calling it again does nothing.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn install(lua: &Lua) -> mlua::Result<Self> {
        if let Some(records) = lua.app_data_ref::<Self>() {
            return Ok(records.clone());
        }
        // SAFETY: `install` is made to be run this way.
        unsafe { lua.exec_raw::<()>((), |state| lazy::install(state))? };
        let records = Self { pace: Rc::default() };
        lua.set_app_data(records.clone());
        Ok(records)
    }

    /// Brings a batch into the Lua state. If much of what was brought in before may be garbage, it is collected first.
    ///
    /// # Errors
    /// If Lua is out of memory, or a finalizer fails.
    pub fn batch_handle(&self, lua: &Lua, batch: Arc<Batch>) -> mlua::Result<BatchHandle> {
        let (len, charge) = (batch.len(), self.charge(lua, batch.footprint())?);
        // SAFETY: `push_handle` is made to be run this way, after `install`, without which there is no `Records`.
        let userdata = unsafe { lua.exec_raw::<AnyUserData>((), |state| lazy::push_handle(state))? };
        // SAFETY: for a userdata the pointer is that of its content, and this one was made just now.
        unsafe { lazy::fill_handle(userdata.to_pointer(), batch, charge) };
        Ok(BatchHandle { userdata, len })
    }

    /// Counts bytes that a Lua object keeps alive beside Lua's own memory, for as long as the charge is there. Collects
    /// garbage first if much of what was counted may be garbage.
    pub(crate) fn charge(&self, lua: &Lua, bytes: usize) -> mlua::Result<Charge> {
        let charge = self.pace.charge(bytes);
        // A large heap is not collected for the sake of a few batches.
        if self.pace.is_due(ALLOWANCE.max(lua.used_memory())) {
            lua.gc_collect()?;
            self.pace.collected();
            tracing::trace!(live = self.pace.live(), "collected garbage on account of batches");
        }
        Ok(charge)
    }

    /// The record at `index`; nil if there is none. A record that is no object or array is the plain value.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn record(&self, lua: &Lua, batch: &BatchHandle, index: usize) -> mlua::Result<Value> {
        // SAFETY: the handle is the only argument; it is replaced by the result.
        unsafe {
            lua.exec_raw(&batch.userdata, |state| {
                lazy::push_record(state, 1, index);
                ffi::lua_replace(state, 1);
            })
        }
    }

    /// All records of a batch, as an array.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn records_table(&self, lua: &Lua, batch: &BatchHandle) -> mlua::Result<Table> {
        let len = batch.len;
        // SAFETY: as in `record`.
        unsafe {
            lua.exec_raw(&batch.userdata, |state| {
                ffi::lua_createtable(state, i32::try_from(len).unwrap_or(0), 0);
                for index in 0..len {
                    lazy::push_record(state, 1, index);
                    ffi::lua_rawseti(state, 2, index as i64 + 1);
                }
                ffi::lua_replace(state, 1);
            })
        }
    }

    /// A function that returns the next record of a batch each time it is called, and nil at the end.
    ///
    /// # Errors
    /// If Lua is out of memory.
    pub fn records_iterator(&self, lua: &Lua, batch: &BatchHandle) -> mlua::Result<Function> {
        // SAFETY: the handle is the only argument and is taken.
        unsafe { lua.exec_raw(&batch.userdata, |state| lazy::push_records_iterator(state)) }
    }

    /// Calls `function` with each record in turn, and appends to `verdicts` whether it returned anything but false or
    /// nil.
    ///
    /// # Errors
    /// If the function fails; `verdicts` then holds the answers before.
    pub(crate) fn ask(
        &self,
        lua: &Lua,
        batch: &BatchHandle,
        function: &Function,
        verdicts: &mut Vec<bool>,
    ) -> mlua::Result<()> {
        let len = batch.len;
        verdicts.reserve_exact(len);
        // SAFETY: handle and function are the arguments; what is pushed for each record is popped. A Lua error leaves the
        // closure with nothing alive that needs dropping, and there is room for all verdicts.
        unsafe {
            lua.exec_raw::<()>((&batch.userdata, function), |state| {
                for index in 0..len {
                    ffi::lua_pushvalue(state, 2);
                    lazy::push_record(state, 1, index);
                    ffi::lua_call(state, 1, 1);
                    verdicts.push(ffi::lua_toboolean(state, -1) != 0);
                    ffi::lua_pop(state, 1);
                }
                ffi::lua_settop(state, 0);
            })
        }
    }

    /// Whether a table is a lazy record, or part of one, that was not written to.
    pub fn is_lazy(&self, table: &Table) -> bool {
        // SAFETY: the table is the only argument; what is pushed is removed.
        let lazy = unsafe {
            table.weak_lua().try_upgrade().map(|lua| {
                lua.exec_raw::<bool>(table, |state| {
                    let lazy = lazy::open(state, 1).is_some();
                    ffi::lua_settop(state, 0);
                    ffi::lua_pushboolean(state, lazy.into());
                })
            })
        };
        matches!(lazy, Some(Ok(true)))
    }

    /// Calls `f` with each key and value of a table, lazy or not. Values that are objects or arrays may be lazy.
    ///
    /// # Errors
    /// What `f` answers; then no further member is visited.
    pub fn for_each_pair(
        &self,
        lua: &Lua,
        table: &Table,
        mut f: impl FnMut(Value, Value) -> mlua::Result<()>,
    ) -> mlua::Result<()> {
        if !self.is_lazy(table) {
            return table.for_each(f);
        }
        let mut ordinal = 0;
        loop {
            let mut more = false;
            // SAFETY: the table is the only argument; it is removed from below the results.
            let (key, value) = unsafe {
                lua.exec_raw::<(Value, Value)>(table, |state| {
                    more = lazy::push_pair(state, &mut ordinal);
                })?
            };
            if !more {
                return Ok(());
            }
            f(key, value)?;
        }
    }

    /// Appends the JSON text of a value to `out`. Records that were not written to are copied byte for byte; those that
    /// were keep the order of their keys, their nulls and `[]`, with new keys last.
    ///
    /// | Lua | JSON |
    /// |---|---|
    /// | nil | `null` |
    /// | table with `#t > 0` | array |
    /// | any other table, also an empty one | object; keys that are numbers or booleans become strings |
    /// | table that was an array in a record | array, as long as it has no other keys |
    ///
    /// # Errors
    /// If there is no JSON text for the value: NaN and infinities, strings that are not UTF-8, functions, threads and
    /// userdata, tables nested more than 128 levels deep. The message says where. `out` then holds half a text.
    pub fn encode(&self, lua: &Lua, value: &Value, out: &mut Vec<u8>) -> mlua::Result<()> {
        let mut encoder = encode::Encoder::new(out);
        // SAFETY: the value is the only argument. A Lua error leaves the closure with nothing alive that needs dropping:
        // all of that belongs to the encoder.
        unsafe {
            lua.exec_raw::<()>(value, |state| {
                let shared = lazy::push_shared(state);
                encode::run(&mut encoder, state, &*shared, 1);
                ffi::lua_settop(state, 0);
            })?;
        }
        match encoder.into_problem() {
            None => Ok(()),
            Some(problem) => Err(mlua::Error::runtime(problem)),
        }
    }

    /// Any value, lazy or not, as a tree.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or if a number is out of range.
    pub fn to_json(&self, lua: &Lua, value: &Value) -> mlua::Result<serde_json::Value> {
        self.deserialize(lua, value)
    }

    /// Any value, lazy or not, as a Rust type.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or if the value does not fit the type.
    pub fn deserialize<T: DeserializeOwned>(&self, lua: &Lua, value: &Value) -> mlua::Result<T> {
        let mut text = Vec::new();
        self.encode(lua, value, &mut text)?;
        serde_json::from_slice(&text).map_err(mlua::Error::external)
    }
}
