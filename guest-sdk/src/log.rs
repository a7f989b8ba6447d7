//! The host's log. Messages come out there with the plug-in's name; on a target without a host they go to stderr.
//!
//! ```
//! tailweir_guest::info!("{} records", 3);
//! tailweir_guest::error!("cannot go on: {}", "no such key");
//! ```

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What only the plug-in's author wants to know.
    Trace,
    /// What helps to find out why something went wrong.
    Debug,
    /// What happened.
    Info,
    /// What the operator should look at.
    Warn,
    /// What went wrong. The last such message of a call that traps becomes part of the host's error.
    Error,
}

/// Writes a message. The macros do it with a format string.
///
/// ```
/// tailweir_guest::log::write(tailweir_guest::log::Level::Info, "started");
/// ```
pub fn write(level: Level, message: &str) {
    crate::backend::log(level, message);
}

macro_rules! level_macros {
    ($dollar:tt $($name:ident $level:ident $doc:literal),*) => {$(
        #[doc = $doc]
        ///
        /// ```
        #[doc = concat!("tailweir_guest::", stringify!($name), "!(\"{} records\", 3);")]
        /// ```
        #[macro_export]
        macro_rules! $name {
            ($dollar($dollar argument:tt)*) => {
                $crate::log::write($crate::log::Level::$level, &::std::format!($dollar($dollar argument)*))
            };
        }
    )*};
}

level_macros!($
    trace Trace "Logs at the level `trace`.",
    debug Debug "Logs at the level `debug`.",
    info Info "Logs at the level `info`.",
    warn Warn "Logs at the level `warn`.",
    error Error "Logs at the level `error`."
);
