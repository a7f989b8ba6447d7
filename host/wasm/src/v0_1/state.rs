//! The state that processors keep, as they see it.

use tailweir_core::StateError;
use wasmtime::Error;

use super::processor::tailweir::plugin::state::{Error as Theirs, Host, Page};
use crate::state::State;

impl State {
    /// The bucket, if it may be changed now.
    fn writable(&self) -> Option<&tailweir_core::Bucket> {
        self.bucket.as_ref().filter(|_| self.batch.is_some())
    }
}

/// What became of a change, in the guest's words. Errors that no guest can do anything about end the call.
fn answer(changed: Option<Result<(), StateError>>) -> wasmtime::Result<Result<(), Theirs>> {
    Ok(match changed {
        Some(Ok(())) => Ok(()),
        None | Some(Err(StateError::NoBatch)) => Err(Theirs::NotNow),
        Some(Err(StateError::KeyBytes(limit))) => Err(Theirs::KeyBytes(limit)),
        Some(Err(StateError::ValueBytes(limit))) => Err(Theirs::ValueBytes(limit)),
        Some(Err(StateError::Keys(limit))) => Err(Theirs::Keys(limit)),
        Some(Err(StateError::Bytes(limit))) => Err(Theirs::Bytes(limit)),
        Some(Err(StateError::Changes(limit))) => Err(Theirs::Changes(limit)),
        Some(Err(
            e @ (StateError::NoCheckpoint
            | StateError::Earlier(_)
            | StateError::Parallel
            | StateError::Store(_)),
        )) => return Err(Error::msg(e.to_string())),
    })
}

impl Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let Some(bucket) = &self.bucket else { return Ok(None) };
        Ok(bucket.get(&key)?.map(|value| value.to_vec()))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), Theirs>> {
        answer(self.writable().map(|bucket| bucket.set(&key, &value)))
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), Theirs>> {
        answer(self.writable().map(|bucket| bucket.delete(&key)))
    }

    fn list(&mut self, prefix: String, after: Option<String>, limit: u32) -> wasmtime::Result<Page> {
        let Some(bucket) = &self.bucket else { return Ok(Page { keys: Vec::new(), more: false }) };
        let page = bucket.list(&prefix, after.as_deref(), limit as usize)?;
        Ok(Page { keys: page.keys, more: page.more })
    }
}
