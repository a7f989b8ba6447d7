//! The option `shadow` of a plug-in.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use tailweir_wasm::{Grants, Limits};

use super::values::{Json, Secrets};
use super::{Engine, Plugin};

/// A second version of a plug-in, which runs beside it without effect.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Shadow {
    path: PathBuf,
    language: Language,
    config: Option<serde_json::Value>,
    secrets: Option<Secrets>,
    limits: Option<Limits>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Wasm,
    Lua,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    wasm: Option<PathBuf>,
    lua: Option<PathBuf>,
    config: Option<Json>,
    secrets: Option<Secrets>,
    limits: Option<Limits>,
    /// Known so that it is refused with a reason.
    grants: Option<toml::Value>,
}

impl TryFrom<toml::Value> for Shadow {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(path) => Ok(Self::at(path.into())),
            toml::Value::Table(table) => {
                table.try_into::<Fields>().map_err(|e| e.message().to_owned())?.try_into()
            }
            _ => Err("`shadow` must be the path of a plug-in, or a table with `wasm` or `lua`".to_owned()),
        }
    }
}

impl TryFrom<Fields> for Shadow {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let Fields { wasm, lua, config, secrets, limits, grants } = fields;
        if grants.is_some() {
            return Err("`grants` is not for a shadow, which must have no effect".to_owned());
        }
        let (path, language) = match (wasm, lua) {
            (Some(path), None) => (path, Language::Wasm),
            (None, Some(_)) if limits.is_some() => {
                return Err("`limits` is for `wasm`: a Lua function has none".to_owned());
            }
            (None, Some(path)) => (path, Language::Lua),
            _ => return Err("give one of `wasm` and `lua`, the path of the shadow".to_owned()),
        };
        Ok(Self { path, language, config: config.map(|Json(config)| config), secrets, limits })
    }
}

impl Shadow {
    /// The plug-in at `path`, in the language that its name says, set up as the one that it is the shadow of.
    pub(crate) fn at(path: PathBuf) -> Self {
        let lua = path.extension().is_some_and(|extension| extension == "lua");
        let language = if lua { Language::Lua } else { Language::Wasm };
        Self { path, language, config: None, secrets: None, limits: None }
    }

    pub(super) fn is_lua(&self) -> bool {
        self.language == Language::Lua
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is run by. Limits that it does not have are those of the plug-in that it is the shadow of.
    pub(crate) fn engine(&self, of: &Engine) -> Engine {
        let path = self.path.clone();
        match (self.language, of) {
            (Language::Lua, _) => Engine::Lua { path },
            (Language::Wasm, Engine::Wasm { limits, .. }) => {
                let limits = self.limits.clone().unwrap_or_else(|| limits.clone());
                Engine::Wasm { path, grants: Grants::default(), limits }
            }
            (Language::Wasm, Engine::Lua { .. }) => {
                let limits = self.limits.clone().unwrap_or_default();
                Engine::Wasm { path, grants: Grants::default(), limits }
            }
        }
    }

    /// Its configuration, with its secrets, which are read now. Of either, what it does not have is that of the plug-in that it
    /// is the shadow of.
    pub(crate) fn config<Use>(&self, of: &Plugin<Use>) -> anyhow::Result<serde_json::Value> {
        let mut config = self.config.as_ref().unwrap_or(&of.config).clone();
        let added = self.secrets.as_ref().unwrap_or(&of.secrets).add_to(&mut config);
        added.with_context(|| format!("secrets of {}", self.path.display()))?;
        Ok(config)
    }

    /// The plug-in, and the files that its secrets are read from.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let secrets = self.secrets.iter_mut().flat_map(Secrets::paths_mut);
        secrets.chain(std::iter::once(&mut self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ForFilter, ForProcessor};
    use super::*;

    fn plugin<Use: super::super::PluginUse>(text: &str) -> Result<Plugin<Use>, String> {
        toml::from_str::<Plugin<Use>>(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn what_a_shadow_does_not_say_is_as_in_the_live_one() {
        let check = |shadow: &str, expected: &str| {
            let live = "wasm = 'a.wasm'\nconfig = { a = 1 }\nlimits = { handles = 7 }\n";
            let plugin = plugin::<ForFilter>(&format!("{live}shadow = {shadow}")).unwrap();
            let shadow = plugin.shadow.as_ref().unwrap();
            let engine = match shadow.engine(&plugin.engine) {
                Engine::Wasm { path, limits, .. } => format!("{} {}", path.display(), limits.handles),
                Engine::Lua { path } => path.display().to_string(),
            };
            assert_eq!(format!("{engine} {}", shadow.config(&plugin).unwrap()), expected);
        };
        check("'b.wasm'", "b.wasm 7 {\"a\":1}");
        check("'b.lua'", "b.lua {\"a\":1}");
        check("{ wasm = 'b', config = { b = 2 } }", "b 7 {\"b\":2}");
        check("{ wasm = 'b', limits = { handles = 9 } }", "b 9 {\"a\":1}");
        check("{ lua = 'b' }", "b {\"a\":1}");
    }

    #[test]
    fn a_shadow_that_can_not_be_one_is_refused() {
        let check = |shadow: &str, expected: &str| {
            let error = plugin::<ForProcessor>(&format!("wasm = 'a'\nshadow = {shadow}")).unwrap_err();
            assert_eq!(error, expected);
        };
        check("5", "`shadow` must be the path of a plug-in, or a table with `wasm` or `lua`");
        check("{}", "give one of `wasm` and `lua`, the path of the shadow");
        check("{ wasm = 'b', grants = {} }", "`grants` is not for a shadow, which must have no effect");
        check("{ lua = 'b', limits = {} }", "`limits` is for `wasm`: a Lua function has none");
        let lua = "a processor in Lua cannot be a shadow: it has the rights of the program, so nothing keeps it from having an \
             effect; give a component";
        check("'b.lua'", lua);
        check("{ lua = 'b' }", lua);
    }
}
