//! `--filter` and `--config` on the command line: any number of filters, each with a configuration of its own behind it.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

/// The filters that were given, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FilterArgs(pub(crate) Vec<FilterArg>);

/// One filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FilterArg {
    pub(crate) path: PathBuf,
    /// Null if none was given.
    pub(crate) config: serde_json::Value,
}

impl FilterArgs {
    #[cfg(test)]
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|filter| filter.path.clone()).collect()
    }
}

const FILTER: &str = "filter";
const CONFIG: &str = "config";

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
        command.arg(filter).arg(config)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let places = |name| matches.indices_of(name).into_iter().flatten();
        let paths = matches.get_many::<PathBuf>(FILTER).into_iter().flatten().cloned();
        let mut filters: Vec<(usize, PathBuf, Option<String>)> =
            places(FILTER).zip(paths).map(|(place, path)| (place, path, None)).collect();
        let configs = matches.get_many::<String>(CONFIG).into_iter().flatten();
        for (place, config) in places(CONFIG).zip(configs) {
            let alone = filters.len() == 1;
            // Where there is one of each, there is nothing to be confused.
            let before = filters.iter_mut().rfind(|(filter, ..)| alone || *filter < place);
            match before {
                None => {
                    return Err(refuse(
                        "a --config stands before all --filter; write each behind the --filter that it is for",
                    ));
                }
                Some((_, _, taken @ None)) => *taken = Some(config.clone()),
                Some((_, path, Some(_))) => {
                    return Err(refuse(&format!(
                        "two --config are given for --filter {}; write each behind the --filter that it is for",
                        path.display()
                    )));
                }
            }
        }
        let arg = |(_, path, config): (usize, PathBuf, Option<String>)| {
            let config = match config {
                Some(text) => serde_json::from_str(&text).map_err(|e| {
                    refuse(&format!("the --config of --filter {} is not JSON: {e}", path.display()))
                })?,
                None => serde_json::Value::Null,
            };
            Ok(FilterArg { path, config })
        };
        filters.into_iter().map(arg).collect::<Result<_, _>>().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
}
