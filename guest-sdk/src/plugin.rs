//! The answers of plug-ins, and the macros that make a plug-in of a function.

use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Batch;

/// Which records of a batch to keep.
///
/// It can be collected from one `bool` per record:
///
/// ```
/// use tailweir_guest::{Batch, Verdict};
/// let batch = Batch::from_json([r#"{"code":250}"#, r#"{"code":550}"#]);
/// let verdict: Verdict = batch.column::<i64>("/code").iter().map(|code| code.is_some_and(|c| c >= 400)).collect();
/// assert_eq!(verdict, Verdict::Keep(vec![false, true]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every one.
    All,
    /// Not one.
    None,
    /// Those with `true`: one entry per record, in order. The host treats any other length as an error of the plug-in.
    Keep(Vec<bool>),
}

impl FromIterator<bool> for Verdict {
    fn from_iter<I: IntoIterator<Item = bool>>(iter: I) -> Self {
        Self::Keep(iter.into_iter().collect())
    }
}

impl From<Vec<bool>> for Verdict {
    fn from(keep: Vec<bool>) -> Self {
        Self::Keep(keep)
    }
}

/// The batch is dealt with.
///
/// ```
/// use tailweir_guest::{Batch, Failure, Outcome};
/// fn process(batch: &Batch) -> Result<Outcome, Failure> {
///     Ok(Outcome::Emit(batch.records().map(|record| record.json().into_owned()).collect()))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do.
    Done,
    /// Write these records, each a JSON text without a line break, to the consumer's sink.
    Emit(Vec<String>),
}

/// The batch is not dealt with, or not all of it. Reasons are words for the operator.
///
/// ```
/// use tailweir_guest::Failure;
/// fn answer(status: u16) -> Result<(), Failure> {
///     match status {
///         200..300 => Ok(()),
///         429 | 500.. => Err(Failure::retry(format!("the server answered {status}"))),
///         _ => Err(Failure::stop(format!("the server answered {status}"))),
///     }
/// }
/// assert!(matches!(answer(503), Err(Failure::Retry { after: None, .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Deliver the batch again, the same and with the same id.
    Retry {
        /// Not before this time has passed; whole milliseconds count. `None` leaves it to the consumer's back-off.
        after: Option<Duration>,
        /// Why.
        reason: String,
    },
    /// Put these records in quarantine; the others are dealt with.
    Reject {
        /// Their indices in the batch.
        indices: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Stop the consumer; the batch comes again at its next start.
    Stop(String),
}

impl Failure {
    /// Deliver the batch again, after the consumer's back-off.
    ///
    /// ```
    /// let failure = tailweir_guest::Failure::retry("the server is busy");
    /// assert!(matches!(failure, tailweir_guest::Failure::Retry { after: None, .. }));
    /// ```
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { after: None, reason: reason.into() }
    }

    /// Deliver the batch again, not before this time has passed.
    ///
    /// ```
    /// use std::time::Duration;
    /// let failure = tailweir_guest::Failure::retry_after(Duration::from_secs(3), "the server asks for patience");
    /// assert!(matches!(failure, tailweir_guest::Failure::Retry { after: Some(_), .. }));
    /// ```
    pub fn retry_after(after: Duration, reason: impl Into<String>) -> Self {
        Self::Retry { after: Some(after), reason: reason.into() }
    }

    /// Put the records at these indices in quarantine.
    ///
    /// ```
    /// use tailweir_guest::{Batch, Failure};
    /// let batch = Batch::from_json([r#"{"id":"a"}"#, "{}"]);
    /// let ids = batch.strings("/id");
    /// let without_id = ids.iter().zip(0..).filter(|(id, _)| id.is_none()).map(|(_, index)| index);
    /// let failure = Failure::reject(without_id, "no id");
    /// assert_eq!(failure, Failure::Reject { indices: vec![1], reason: "no id".into() });
    /// ```
    pub fn reject(indices: impl IntoIterator<Item = u32>, reason: impl Into<String>) -> Self {
        Self::Reject { indices: indices.into_iter().collect(), reason: reason.into() }
    }

    /// Stop the consumer.
    ///
    /// ```
    /// let failure = tailweir_guest::Failure::stop("the key was revoked");
    /// assert_eq!(failure, tailweir_guest::Failure::Stop("the key was revoked".into()));
    /// ```
    pub fn stop(reason: impl Into<String>) -> Self {
        Self::Stop(reason.into())
    }
}

/// A plug-in's description, from its manifest.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Description {
    pub name: &'static str,
    pub version: &'static str,
    pub needs: &'static [&'static str],
    /// Made when it is asked for.
    pub config_schema: fn() -> String,
}

/// What a plug-in cannot do without: the features of this crate tell.
#[doc(hidden)]
pub const NEEDS: &[&str] = &[
    #[cfg(feature = "http")]
    "http",
    #[cfg(feature = "state")]
    "state",
];

/// A filter that has its configuration.
#[doc(hidden)]
pub type FilterFn = Box<dyn FnMut(&Batch) -> Result<Verdict, String>>;

/// A processor that has its configuration.
#[doc(hidden)]
pub type ProcessorFn = Box<dyn FnMut(&Batch) -> Result<Outcome, Failure>>;

/// What a filter function may return.
#[doc(hidden)]
pub trait IntoVerdict {
    fn into_verdict(self) -> Result<Verdict, String>;
}

impl IntoVerdict for Verdict {
    fn into_verdict(self) -> Result<Verdict, String> {
        Ok(self)
    }
}

impl<V: Into<Verdict>, E: Display> IntoVerdict for Result<V, E> {
    fn into_verdict(self) -> Result<Verdict, String> {
        self.map(Into::into).map_err(|e| e.to_string())
    }
}

/// A function that can be a filter: with a configuration or without, which `Shape` tells.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this function cannot be a filter",
    label = "not the signature of a filter",
    note = "a filter is `fn(&Batch) -> Verdict`, or `fn(&Batch, &Config) -> Verdict` where `Config` implements \
            `serde::de::DeserializeOwned`",
    note = "it may also return `Result<V, E>` where `V` is `Verdict` or `Vec<bool>` and `E` can be displayed; an iterator of \
            `bool`, one per record, is collected with `.collect::<Verdict>()`",
    note = "a function that returns `Result<Outcome, Failure>` is a processor: `tailweir_guest::processor!`",
    note = "if the signature is right, put `#[derive(serde::Deserialize)]` on the type of the configuration"
)]
pub trait IntoFilter<Shape> {
    fn configure(self, config: &str) -> Result<FilterFn, String>;
}

/// A function that can be a processor.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this function cannot be a processor",
    label = "not the signature of a processor",
    note = "a processor is `fn(&Batch) -> Result<Outcome, Failure>`, or `fn(&Batch, &Config) -> Result<Outcome, Failure>` \
            where `Config` implements `serde::de::DeserializeOwned`",
    note = "a function that returns a `Verdict` is a filter: `tailweir_guest::filter!`",
    note = "if the signature is right, put `#[derive(serde::Deserialize)]` on the type of the configuration"
)]
pub trait IntoProcessor<Shape> {
    fn configure(self, config: &str) -> Result<ProcessorFn, String>;
}

/// A configuration: one is kept longer than the text that it is parsed from, so its texts must be its own.
///
/// For a type that borrows, as one with a `&str`, the compiler has no words of ours: it says that the implementation of a trait
/// `is not general enough`, and names the trait. So the name is the remedy.
#[doc(hidden)]
pub trait ConfigWithStringInPlaceOfStr<'de>: Deserialize<'de> {}

impl<'de, C: Deserialize<'de>> ConfigWithStringInPlaceOfStr<'de> for C {}

/// The shape of a function that takes a configuration.
#[doc(hidden)]
pub struct WithConfig<C>(std::marker::PhantomData<C>);

/// The shape of a function that takes none.
#[doc(hidden)]
pub struct WithoutConfig;

impl<F, V> IntoFilter<WithoutConfig> for F
where
    F: Fn(&Batch) -> V + 'static,
    V: IntoVerdict,
{
    fn configure(self, config: &str) -> Result<FilterFn, String> {
        refuse(config)?;
        Ok(Box::new(move |batch| self(batch).into_verdict()))
    }
}

impl<F, C, V> IntoFilter<WithConfig<C>> for F
where
    F: Fn(&Batch, &C) -> V + 'static,
    C: for<'de> ConfigWithStringInPlaceOfStr<'de> + 'static,
    V: IntoVerdict,
{
    fn configure(self, config: &str) -> Result<FilterFn, String> {
        let config = parse::<C>(config)?;
        Ok(Box::new(move |batch| self(batch, &config).into_verdict()))
    }
}

impl<F> IntoProcessor<WithoutConfig> for F
where
    F: Fn(&Batch) -> Result<Outcome, Failure> + 'static,
{
    fn configure(self, config: &str) -> Result<ProcessorFn, String> {
        refuse(config)?;
        Ok(Box::new(self))
    }
}

impl<F, C> IntoProcessor<WithConfig<C>> for F
where
    F: Fn(&Batch, &C) -> Result<Outcome, Failure> + 'static,
    C: for<'de> ConfigWithStringInPlaceOfStr<'de> + 'static,
{
    fn configure(self, config: &str) -> Result<ProcessorFn, String> {
        let config = parse::<C>(config)?;
        Ok(Box::new(move |batch| self(batch, &config)))
    }
}

/// The shape of a filter function, for `ConfigSchema`.
#[doc(hidden)]
pub fn shape_of_filter<S, F: IntoFilter<S>>(_: F) -> Shape<S> {
    Shape(std::marker::PhantomData)
}

/// The shape of a processor function.
#[doc(hidden)]
pub fn shape_of_processor<S, F: IntoProcessor<S>>(_: F) -> Shape<S> {
    Shape(std::marker::PhantomData)
}

/// See `ConfigSchema`.
#[doc(hidden)]
pub struct Shape<S>(std::marker::PhantomData<S>);

/// The JSON schema of a configuration whose type has one, as far as a macro can see: where both this trait and
/// `NoConfigSchema` fit, a method call on a reference finds this one first.
#[cfg(feature = "schema")]
#[doc(hidden)]
pub trait ConfigSchema {
    fn config_schema(&self) -> String;
}

#[cfg(feature = "schema")]
impl<C: schemars::JsonSchema> ConfigSchema for Shape<WithConfig<C>> {
    fn config_schema(&self) -> String {
        serde_json::to_string(&schemars::schema_for!(C)).expect("a schema is a JSON value")
    }
}

/// No JSON schema, for all others.
#[doc(hidden)]
pub trait NoConfigSchema {
    fn config_schema(&self) -> String;
}

impl<S> NoConfigSchema for &Shape<S> {
    fn config_schema(&self) -> String {
        String::new()
    }
}

fn parse<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    serde_json::from_str(config).map_err(|e| match config.trim() {
        "null" => format!("the plug-in needs a configuration: {e}"),
        _ => format!("the configuration is not as the plug-in expects: {e}"),
    })
}

/// A configuration that nobody reads is a mistake of the operator's.
fn refuse(config: &str) -> Result<(), String> {
    match config.trim() {
        "null" | "{}" | "[]" => Ok(()),
        _ => Err("the plug-in takes no configuration".to_owned()),
    }
}

/// Makes a filter plug-in of a function.
///
/// The function takes `&Batch`, or `&Batch` and `&C` where `C` implements `serde::de::DeserializeOwned`: then the
/// operator's configuration is parsed into it once, and an error there is the operator's to see. `C` is kept from batch to
/// batch, so it has `String` in the place of `&str`. The function returns a
/// [`Verdict`], or a `Result` of one (or of a `Vec<bool>`) and anything that can be displayed.
/// Name and version are those of the crate, which has one filter or one processor.
///
/// The host holds configurations to a JSON schema, if there is one. With the feature `schema` it is that of `C`, if `C`
/// implements [`schemars::JsonSchema`](https://docs.rs/schemars); `config_schema = …` gives another.
///
/// ```standalone_crate
/// use tailweir_guest::{Batch, Verdict};
///
/// fn bounces(batch: &Batch) -> Verdict {
///     batch.strings("/type").iter().map(|kind| kind == Some("Bounce")).collect()
/// }
///
/// tailweir_guest::filter!(bounces);
/// ```
///
/// ```standalone_crate
/// # use tailweir_guest::{Batch, Verdict};
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     at_least: i64,
/// }
///
/// fn keep(batch: &Batch, config: &Config) -> Result<Verdict, String> {
///     Ok(batch.column::<i64>("/size").iter().map(|size| size.is_some_and(|s| s >= config.at_least)).collect())
/// }
///
/// tailweir_guest::filter!(keep, config_schema = r#"{"type":"object","required":["at_least"]}"#);
/// ```
///
#[cfg_attr(feature = "schema", doc = "```standalone_crate")]
#[cfg_attr(not(feature = "schema"), doc = "```ignore")]
/// # use tailweir_guest::{Batch, Verdict};
/// /// The host is told that there must be a number, and what it is good for.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// Records of fewer bytes are dropped.
///     at_least: i64,
/// }
///
/// # fn keep(batch: &Batch, config: &Config) -> Verdict { Verdict::All }
/// tailweir_guest::filter!(keep);
/// ```
#[macro_export]
macro_rules! filter {
    ($function:path $(,)?) => {
        $crate::__plugin!(
            filter_world,
            IntoFilter,
            FilterFn,
            $function,
            $crate::__schema!(shape_of_filter, $function)
        );
    };
    ($function:path, config_schema = $schema:expr $(,)?) => {
        $crate::__plugin!(
            filter_world,
            IntoFilter,
            FilterFn,
            $function,
            ::std::string::String::from($schema)
        );
    };
}

/// Makes a processor plug-in of a function.
///
/// The function takes `&Batch`, or `&Batch` and `&C` as with [`filter!`], and returns `Result<Outcome, Failure>`.
///
/// ```standalone_crate
/// use tailweir_guest::{Batch, Failure, Outcome};
///
/// #[derive(serde::Deserialize)]
/// struct Config {
///     known: Vec<String>,
/// }
///
/// fn process(batch: &Batch, config: &Config) -> Result<Outcome, Failure> {
///     for (index, kind) in batch.column::<String>("/type").iter().enumerate() {
///         if !kind.as_ref().is_some_and(|k| config.known.contains(k)) {
///             return Err(Failure::reject([index as u32], "not a type that I know"));
///         }
///     }
///     Ok(Outcome::Done)
/// }
///
/// tailweir_guest::processor!(process);
/// ```
#[macro_export]
macro_rules! processor {
    ($function:path $(,)?) => {
        $crate::__plugin!(
            processor_world,
            IntoProcessor,
            ProcessorFn,
            $function,
            $crate::__schema!(shape_of_processor, $function)
        );
    };
    ($function:path, config_schema = $schema:expr $(,)?) => {
        $crate::__plugin!(
            processor_world,
            IntoProcessor,
            ProcessorFn,
            $function,
            ::std::string::String::from($schema)
        );
    };
}

/// The JSON schema of a function's configuration, if its type has one.
#[doc(hidden)]
#[macro_export]
macro_rules! __schema {
    ($shape:ident, $function:path) => {{
        #[allow(unused_imports, reason = "which of them fits depends on the function")]
        use $crate::__private::*;
        (&$crate::__private::$shape($function)).config_schema()
    }};
}

/// The exports of a plug-in; without a host, only the check that the function has the right shape.
#[doc(hidden)]
#[macro_export]
macro_rules! __plugin {
    ($world:ident, $into:ident, $function_type:ident, $function:path, $schema:expr) => {
        // Of names in a crate only that of an exported macro has to be unique wherever it is. A second plug-in would be an error
        // of the linker otherwise, and only where a component is made. Examples of documentation, which are compiled as one crate, are
        // each a `standalone_crate` for it.
        #[doc(hidden)]
        #[macro_export]
        #[allow(non_local_definitions, reason = "it may be in a function, as in examples of documentation")]
        macro_rules! a_crate_has_one_filter_or_one_processor {
            () => {};
        }

        const _: () = {
            fn __configure(
                config: &str,
            ) -> ::core::result::Result<$crate::__private::$function_type, ::std::string::String> {
                $crate::__private::$into::configure($function, config)
            }

            #[allow(dead_code, reason = "without a host nobody asks")]
            const DESCRIPTION: $crate::__private::Description = $crate::__private::Description {
                name: ::core::env!("CARGO_PKG_NAME"),
                version: ::core::env!("CARGO_PKG_VERSION"),
                needs: $crate::__private::NEEDS,
                config_schema: __config_schema,
            };

            #[allow(
                clippy::needless_borrow,
                reason = "the reference is what tells whether there is a schema"
            )]
            fn __config_schema() -> ::std::string::String {
                $schema
            }

            #[cfg(not(target_family = "wasm"))]
            const _: fn(
                &str,
            )
                -> ::core::result::Result<$crate::__private::$function_type, ::std::string::String> =
                __configure;

            #[cfg(target_family = "wasm")]
            $crate::__export!($world, __configure, DESCRIPTION);
        };
    };
}
