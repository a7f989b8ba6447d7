//! The host's log. Messages come out there with the plug-in's name; on a target without a host they go to stderr.
//!
//! ```
//! tailweir_guest::info!("{} records", 3);
//! tailweir_guest::error!("cannot go on: {}", "no such key");
//! ```

/// How much a message matters.
///
/// ```
/// tailweir_guest::log!(tailweir_guest::log::Level::Warn, "{} records without a type", 3);
/// ```
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

/// Logs at a level that is only known when it happens.
///
/// ```
/// use tailweir_guest::log::Level;
/// let level = if 3 > 2 { Level::Warn } else { Level::Info };
/// tailweir_guest::log!(level, "{} records", 3);
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($argument:tt)*) => {
        $crate::log::write($level, &::std::format!($($argument)*))
    };
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
