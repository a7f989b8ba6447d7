//! From a component's bytes to machine code, at most once per content.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::{CacheError, Directory};

/// What machine code is known by: the component, and the engine with all its settings and the processor that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(engine: &Engine, component: &[u8]) -> Self {
        let mut digest = Digesting(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut digest);
        digest.0.update(component);
        Self(digest.0.finalize().into())
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The engine tells what code depends on only to a hasher.
struct Digesting(Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not the result: [`Key::of`] takes that, which is longer.
    fn finish(&self) -> u64 {
        0
    }
}

/// Compiles, and remembers.
pub(crate) struct Compiler {
    cache: Option<PathBuf>,
    /// None if there is no cache, or it cannot be used.
    directory: OnceLock<Option<Directory>>,
    /// Locked while compiling, which keeps all cores busy as it is: of two that want the same, one waits.
    compiled: Mutex<HashMap<Key, Component>>,
}

impl Compiler {
    /// One that keeps code in the directory `cache`, if it is given and can be used.
    pub(crate) fn new(cache: Option<PathBuf>) -> Self {
        Self { cache, directory: OnceLock::new(), compiled: Mutex::default() }
    }

    /// The component in `bytes`, which are the content of the file at `path` and have this `key`.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        path: &Path,
        key: &Key,
        bytes: &[u8],
    ) -> wasmtime::Result<Component> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = compiled.get(key) {
            return Ok(component.clone());
        }
        let component = match self.cached(engine, path, key) {
            Some(component) => component,
            None => self.anew(engine, path, key, bytes)?,
        };
        compiled.insert(*key, component.clone());
        Ok(component)
    }

    /// Lets go of a component, which stays in memory only as long as there are plug-ins made of it.
    pub(crate) fn forget(&self, key: &Key) {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The directory that code is kept in, for those who want to know what is wrong with it; `None` if there is none.
    pub(crate) fn open_cache(&self) -> Result<Option<Directory>, CacheError> {
        self.cache.as_ref().map(|cache| Directory::open(cache)).transpose()
    }

    fn directory(&self) -> Option<&Directory> {
        let open = || Directory::open(self.cache.as_ref()?).inspect_err(report).ok();
        self.directory.get_or_init(open).as_ref()
    }

    fn cached(&self, engine: &Engine, path: &Path, key: &Key) -> Option<Component> {
        let directory = self.directory()?;
        let code = directory.get(key).inspect_err(report).ok()??;
        // SAFETY: the bytes must be what `Component::serialize` gave. Their header says so, and binds them to this engine's
        // version and settings and to this component; but a header proves nothing against somebody who writes it on purpose.
        // That is what the checks of `Directory` are for: only this user and root could write the file or replace it, and
        // they could as well replace or debug this program. The bytes are our own copy, so they do not change any more.
        let component = unsafe { Component::deserialize(engine, code.bytes()) };
        let unfit = |error: &wasmtime::Error| {
            tracing::warn!(
                target: "tailweir::wasm",
                "plug-in cache: {}: refused by the runtime: {error:#}; compiling anew",
                directory.path_of(key).display()
            );
        };
        let component = component.inspect_err(unfit).ok()?;
        tracing::debug!(
            target: "tailweir::wasm",
            "{}: compiled before, as {}", path.display(), directory.path_of(key).display()
        );
        Some(component)
    }

    fn anew(&self, engine: &Engine, path: &Path, key: &Key, bytes: &[u8]) -> wasmtime::Result<Component> {
        let begun = Instant::now();
        let component = Component::from_binary(engine, bytes)?;
        tracing::debug!(target: "tailweir::wasm", "{}: compiled in {:?}", path.display(), begun.elapsed());
        if let Some(directory) = self.directory() {
            // Not an error of `put`'s: the disk may be full, and code that cannot be taken out is used as it is.
            match component.serialize() {
                Ok(code) => directory.put(key, &code).unwrap_or_else(|e| report(&e)),
                Err(e) => tracing::debug!(target: "tailweir::wasm", "plug-in cache: nothing to keep: {e:#}"),
            }
        }
        Ok(component)
    }
}

fn report(error: &CacheError) {
    if error.is_common() {
        tracing::debug!(target: "tailweir::wasm", "plug-in cache: {error}; compiling at each start");
    } else {
        tracing::warn!(target: "tailweir::wasm", "plug-in cache: {error}; compiling anew");
    }
}
