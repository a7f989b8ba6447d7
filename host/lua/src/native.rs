//! Filters and processors of other engines, as values that scripts can hold. This crate makes none of them: the program
//! that wires the engines together does.

use std::rc::Rc;
use std::sync::Arc;

use mlua::{AnyUserData, Function, Lua, MetaMethod, Table, UserData, UserDataFields, Value};
use tailweir_core::{Failure, FilterFactory, Outcome, Processor};

use crate::batch::LuaBatch;
use crate::error::fail;
use crate::options::describe;

/// Accepted wherever `kumo.jsonl` takes a filter function. Each tailer that is opened with it has a filter of its own.
pub struct FilterHandle(pub Arc<dyn FilterFactory>);

impl UserData for FilterHandle {}

/// A processor with a method `process(batch)`.
///
/// It returns `true` if the batch is done, or an array of JSON texts that the processor emitted. Else it raises a table with
/// `kind` (`"retry"`, `"reject"`, `"stop"` or `"crash"`), `reason`, and, where they apply, `after` (seconds) and `indices`
/// (from 1). `tostring` of it is kind and reason.
pub struct ProcessorHandle(Rc<tokio::sync::Mutex<Box<dyn Processor>>>);

impl ProcessorHandle {
    /// Wraps a processor. It is given one batch at a time.
    pub fn new(processor: Box<dyn Processor>) -> Self {
        Self(Rc::new(tokio::sync::Mutex::new(processor)))
    }
}

impl UserData for ProcessorHandle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        // A function of the binding can raise texts only, so that one in Lua raises the table for it.
        fields.add_meta_field_with(MetaMethod::Index, |lua| {
            let process = lua.create_async_function(process)?;
            let process: Function = lua.load(PROCESS).set_name("=tailweir").call(process)?;
            lua.create_table_from([("process", process)])
        });
    }
}

const PROCESS: &str = "
local process = ...
return function(...)
  local answer, failure = process(...)
  if failure then error(failure, 0) end
  return answer
end";

/// The answer to a batch, or nothing and what is to be raised.
async fn process(lua: Lua, (this, batch): (AnyUserData, Value)) -> mlua::Result<(Value, Option<Table>)> {
    let processor = this.borrow::<ProcessorHandle>()?.0.clone();
    let (batch, state) = match batch.as_userdata().map(|data| data.borrow::<LuaBatch>()) {
        Some(Ok(batch)) => (batch.batch().clone(), batch.keeper().cloned()),
        _ => return Err(fail(format!("process: expected a batch, got {}", describe(&batch)))),
    };
    let mut processor = processor.lock().await;
    let answer = match &state {
        Some(state) => processor.process_with_state(&batch, state).await,
        None => processor.process(&batch).await,
    };
    match answer {
        Ok(Outcome::Done) => Ok((Value::Boolean(true), None)),
        Ok(Outcome::Emit(texts)) => Ok((Value::Table(lua.create_sequence_from(texts)?), None)),
        Err(failure) => Ok((Value::Nil, Some(describe_failure(&lua, &failure)?))),
    }
}

fn describe_failure(lua: &Lua, failure: &Failure) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let (kind, reason) = match failure {
        Failure::Retry { after, reason } => {
            table.set("after", after.map(|after| after.as_secs_f64()))?;
            ("retry", reason)
        }
        Failure::Reject { indices, reason } => {
            let indices = indices.iter().map(|index| u64::from(*index) + 1);
            table.set("indices", lua.create_sequence_from(indices)?)?;
            ("reject", reason)
        }
        Failure::Stop { reason } => ("stop", reason),
        Failure::Crash { reason } => ("crash", reason),
    };
    table.set("kind", kind)?;
    table.set("reason", reason.as_str())?;
    let text = failure.to_string();
    let to_string = lua.create_function(move |_, _: Value| Ok(text.clone()))?;
    table.set_metatable(Some(lua.create_table_from([("__tostring", to_string)])?))?;
    Ok(table)
}
