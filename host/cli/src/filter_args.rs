//! `--filter` on the command line: any number of filters, each with what is said about it behind it.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use crate::plugins::is_lua;

/// The filters that were given, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FilterArgs(pub(crate) Vec<FilterArg>);

/// One filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FilterArg {
    pub(crate) path: PathBuf,
    /// Null if none was given.
    pub(crate) config: serde_json::Value,
    pub(crate) shadow: Option<ShadowArg>,
}

/// What runs beside a filter without effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShadowArg {
    pub(crate) path: PathBuf,
    /// The filter's, if it was given none.
    pub(crate) config: serde_json::Value,
}

impl FilterArgs {
    /// Whether one of them, or a shadow of one, is not in Lua.
    pub(crate) fn has_component(&self) -> bool {
        let mut shadows = self.0.iter().flat_map(|filter| &filter.shadow);
        shadows.any(|shadow| !is_lua(&shadow.path)) || self.0.iter().any(|filter| !is_lua(&filter.path))
    }

    #[cfg(test)]
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|filter| filter.path.clone()).collect()
    }
}

const FILTER: &str = "filter";
const CONFIG: &str = "config";
const SHADOW: &str = "shadow";
const SHADOW_CONFIG: &str = "shadow-config";

impl Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let filter = Arg::new(FILTER)
            .long(FILTER)
            .value_name("FILE.wasm|FILE.lua")
            .value_parser(value_parser!(PathBuf))
            .action(ArgAction::Append)
            .help(
                "Print what this filter keeps: a WebAssembly component, or a Lua file that returns a function. Given more than \
                 once: what all of them keep",
            );
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("JSON")
            .action(ArgAction::Append)
            .requires(FILTER)
            .help("The configuration of the filter before it, as JSON");
        let shadow = Arg::new(SHADOW)
            .long(SHADOW)
            .value_name("FILE.wasm|FILE.lua")
            .action(ArgAction::Append)
            .requires(FILTER)
            .help(
                "Run this second version of the filter before it beside that, without effect, and tell where its verdicts \
                 differ",
            );
        let shadow_config = Arg::new(SHADOW_CONFIG)
            .long(SHADOW_CONFIG)
            .value_name("JSON")
            .action(ArgAction::Append)
            .requires(SHADOW)
            .help("The configuration of that second version, as JSON, if it has another one");
        command.args([filter, config, shadow, shadow_config])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let paths = matches.get_many::<PathBuf>(FILTER).into_iter().flatten().cloned();
        let mut filters: Vec<Given> = places(matches, FILTER)
            .zip(paths)
            .map(|(place, path)| Given { place, path, ..Given::default() })
            .collect();
        attach(&mut filters, matches, CONFIG, |filter| &mut filter.config)?;
        attach(&mut filters, matches, SHADOW, |filter| &mut filter.shadow)?;
        attach(&mut filters, matches, SHADOW_CONFIG, |filter| &mut filter.shadow_config)?;
        filters.into_iter().map(Given::read).collect::<Result<_, _>>().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A filter and what is said about it, as it was given.
#[derive(Default)]
struct Given {
    /// Where its `--filter` stands.
    place: usize,
    path: PathBuf,
    config: Option<String>,
    shadow: Option<String>,
    shadow_config: Option<String>,
}

impl Given {
    fn read(self) -> Result<FilterArg, Error> {
        let Self { path, config, shadow, shadow_config, .. } = self;
        let json = |option: &str, text: String| {
            serde_json::from_str::<serde_json::Value>(&text).map_err(|e| {
                refuse(&format!("the --{option} of --filter {} is not JSON: {e}", path.display()))
            })
        };
        let config = config.map(|text| json(CONFIG, text)).transpose()?.unwrap_or_default();
        let shadow_config = shadow_config.map(|text| json(SHADOW_CONFIG, text)).transpose()?;
        let shadow = match (shadow, shadow_config) {
            (Some(path), own) => {
                Some(ShadowArg { path: path.into(), config: own.unwrap_or_else(|| config.clone()) })
            }
            (None, None) => None,
            (None, Some(_)) => {
                return Err(refuse(&format!(
                    "--filter {} has a --shadow-config and no --shadow",
                    path.display()
                )));
            }
        };
        Ok(FilterArg { path, config, shadow })
    }
}

/// Where an option stands, each time that it is there.
fn places<'a>(matches: &'a ArgMatches, option: &str) -> impl Iterator<Item = usize> + 'a {
    matches.indices_of(option).into_iter().flatten()
}

/// Gives each value of an option to the filter before it, which must have none yet.
fn attach(
    filters: &mut [Given],
    matches: &ArgMatches,
    option: &str,
    of: fn(&mut Given) -> &mut Option<String>,
) -> Result<(), Error> {
    let alone = filters.len() == 1;
    let values = matches.get_many::<String>(option).into_iter().flatten();
    for (place, value) in places(matches, option).zip(values) {
        // Where there is one of each, there is nothing to be confused.
        let Some(filter) = filters.iter_mut().rfind(|filter| alone || filter.place < place) else {
            return Err(refuse(&format!(
                "a --{option} stands before all --filter; write each behind the --filter that it is for"
            )));
        };
        if of(filter).is_some() {
            return Err(refuse(&format!(
                "two --{option} are given for --filter {}; write each behind the --filter that it is for",
                filter.path.display()
            )));
        }
        *of(filter) = Some(value.clone());
    }
    Ok(())
}

fn refuse(why: &str) -> Error {
    Error::raw(ErrorKind::ArgumentConflict, format!("{why}\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filters: FilterArgs,
    }

    fn parse(line: &str) -> Result<Vec<(String, String)>, String> {
        let line = Line::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        let text = |filter: FilterArg| (filter.path.display().to_string(), filter.config.to_string());
        Ok(line.filters.0.into_iter().map(text).collect())
    }

    #[track_caller]
    fn check(line: &str, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(path, config)| (path.to_string(), config.to_string()));
        assert_eq!(parse(line), Ok(expected.collect()));
    }

    #[track_caller]
    fn refuses(line: &str, part: &str) {
        let error = parse(line).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_configuration_is_that_of_the_filter_before_it() {
        check("x", &[]);
        check("x --filter a", &[("a", "null")]);
        check("x --config {} --filter a", &[("a", "{}")]);
        check(
            "x --filter a --config 1 --filter b --filter c --config 3",
            &[("a", "1"), ("b", "null"), ("c", "3")],
        );
        refuses("x --config 1", "--filter");
        refuses("x --config 1 --filter a --filter b", "a --config stands before all --filter");
        refuses("x --filter a --config 1 --config 2 --filter b", "two --config are given for --filter a");
        refuses("x --config 1 --config 2 --filter a", "two --config are given for --filter a");
        refuses("x --filter a --filter b --config {", "the --config of --filter b is not JSON");
    }

    #[test]
    fn so_is_a_shadow() {
        let shadows = |line: &str| -> Vec<Option<(String, String)>> {
            let line = Line::try_parse_from(line.split(' ')).unwrap();
            let text = |shadow: ShadowArg| (shadow.path.display().to_string(), shadow.config.to_string());
            line.filters.0.into_iter().map(|filter| filter.shadow.map(text)).collect()
        };
        let shadow = |path: &str, config: &str| Some((path.to_owned(), config.to_owned()));
        assert_eq!(shadows("x --filter a"), [None]);
        assert_eq!(shadows("x --filter a --config 1 --shadow s"), [shadow("s", "1")]);
        let two = "x --filter a --config 1 --filter b --shadow s --shadow-config 2";
        assert_eq!(shadows(two), [None, shadow("s", "2")]);
        refuses("x --filter a --shadow s --shadow t --filter b", "two --shadow are given for --filter a");
        refuses("x --shadow s", "--filter");
        refuses(
            "x --filter a --shadow s --filter b --shadow-config 1",
            "--filter b has a --shadow-config and no --shadow",
        );
    }
}
