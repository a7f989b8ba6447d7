//! `kumo.time`: sleeping, the clock, and time spans.

use std::fmt::Write as _;
use std::time::Instant;

use chrono::{DateTime, Datelike, TimeDelta, TimeZone, Timelike, Utc};
use mlua::{AnyUserData, Lua, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, Value};

use crate::error::fail;
use crate::options::{self, DURATION, describe};

/// Makes the module's table.
pub(crate) fn module(lua: &Lua) -> mlua::Result<Table> {
    let time = lua.create_table()?;
    time.set("sleep", lua.create_async_function(|_, seconds: Value| sleep(seconds))?)?;
    time.set("now", lua.create_function(|_, ()| Ok(Time(Utc::now())))?)?;
    time.set("from_unix_timestamp", lua.create_function(|_, seconds: Value| from_unix_timestamp(&seconds))?)?;
    time.set(
        "parse_rfc3339",
        lua.create_function(|_, text: String| parse("rfc3339", &text, DateTime::parse_from_rfc3339))?,
    )?;
    time.set(
        "parse_rfc2822",
        lua.create_function(|_, text: String| parse("rfc2822", &text, DateTime::parse_from_rfc2822))?,
    )?;
    time.set("with_ymd_hms", lua.create_function(with_ymd_hms)?)?;
    time.set("parse_duration", lua.create_function(|_, value: Value| parse_duration(&value))?)?;
    time.set("start_timer", lua.create_function(|_, label: String| Ok(Timer::start(label)))?)?;
    Ok(time)
}

/// Sleeps for a number of seconds, or for a duration; everything else goes on meanwhile.
async fn sleep(time: Value) -> mlua::Result<()> {
    match options::duration(&time) {
        Some(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        None => Err(fail(format!("kumo.time.sleep: expected {DURATION}, got {}", describe(&time)))),
    }
}

fn parse_duration(value: &Value) -> mlua::Result<Span> {
    let span = options::duration(value).and_then(|d| TimeDelta::from_std(d).ok());
    let wrong = || fail(format!("kumo.time.parse_duration: expected {DURATION}, got {}", describe(value)));
    Ok(Span(span.ok_or_else(wrong)?))
}

fn from_unix_timestamp(seconds: &Value) -> mlua::Result<Time> {
    let time = match seconds {
        Value::Integer(seconds) => DateTime::from_timestamp(*seconds, 0),
        Value::Number(seconds) => {
            let whole = seconds.floor();
            // A float that is out of range becomes the nearest integer, which is no timestamp either.
            DateTime::from_timestamp(whole as i64, ((seconds - whole) * 1e9) as u32)
        }
        _ => None,
    };
    let wrong = || fail(format!("kumo.time.from_unix_timestamp: no timestamp: {}", describe(seconds)));
    Ok(Time(time.ok_or_else(wrong)?))
}

type YmdHms = (i32, u32, u32, u32, u32, u32);

fn with_ymd_hms(_: &Lua, (year, month, day, hour, minute, second): YmdHms) -> mlua::Result<Time> {
    let time = Utc.with_ymd_and_hms(year, month, day, hour, minute, second).single();
    let wrong = || {
        fail(format!("kumo.time.with_ymd_hms: no such time: {year}-{month}-{day} {hour}:{minute}:{second}"))
    };
    Ok(Time(time.ok_or_else(wrong)?))
}

fn parse<Z: TimeZone>(
    format: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<DateTime<Z>, chrono::ParseError>,
) -> mlua::Result<Time> {
    match parse(text) {
        Ok(time) => Ok(Time(time.to_utc())),
        Err(e) => Err(fail(format!("kumo.time.parse_{format}: `{text}`: {e}"))),
    }
}

/// A moment, in UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(DateTime<Utc>);

impl UserData for Time {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("year", |_, this| Ok(this.0.year()));
        fields.add_field_method_get("month", |_, this| Ok(this.0.month()));
        fields.add_field_method_get("day", |_, this| Ok(this.0.day()));
        fields.add_field_method_get("hour", |_, this| Ok(this.0.hour()));
        fields.add_field_method_get("minute", |_, this| Ok(this.0.minute()));
        fields.add_field_method_get("second", |_, this| Ok(this.0.second()));
        fields.add_field_method_get("unix_timestamp", |_, this| Ok(this.0.timestamp()));
        fields.add_field_method_get("unix_timestamp_millis", |_, this| Ok(this.0.timestamp_millis()));
        fields.add_field_method_get("rfc2822", |_, this| Ok(this.0.to_rfc2822()));
        fields.add_field_method_get("rfc3339", |_, this| Ok(this.0.to_rfc3339()));
        fields.add_field_method_get("elapsed", |_, this| Ok(Span(Utc::now() - this.0)));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("format", |_, this, format: String| {
            let mut text = String::new();
            match write!(text, "{}", this.0.format(&format)) {
                Ok(()) => Ok(text),
                Err(_) => Err(fail(format!("time:format: `{format}` is no strftime format"))),
            }
        });
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(this.0.to_rfc3339()));
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (AnyUserData, AnyUserData)| {
            Ok(*a.borrow::<Self>()? == *b.borrow::<Self>()?)
        });
        methods.add_meta_method(MetaMethod::Sub, |lua, this, other: AnyUserData| {
            if let Ok(other) = other.borrow::<Self>() {
                return lua.pack(Span(this.0 - other.0));
            }
            let other = other.borrow::<Span>()?.0;
            lua.pack(Self(this.0.checked_sub_signed(other).ok_or_else(out_of_range)?))
        });
        methods.add_meta_method(MetaMethod::Add, |_, this, other: AnyUserData| {
            let other = other.borrow::<Span>()?.0;
            Ok(Self(this.0.checked_add_signed(other).ok_or_else(out_of_range)?))
        });
    }
}

fn out_of_range() -> mlua::Error {
    fail("time is out of range")
}

/// A time between two moments; negative if the first is the later one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span(TimeDelta);

impl Span {
    fn human(self) -> String {
        let sign = if self.0 < TimeDelta::zero() { "-" } else { "" };
        // The absolute value of a span is not negative, so that it is a duration.
        let length = self.0.abs().to_std().unwrap_or_default();
        format!("{sign}{}", humantime::format_duration(length))
    }
}

impl UserData for Span {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("seconds", |_, this| Ok(this.0.as_seconds_f64()));
        fields
            .add_field_method_get("nanoseconds", |_, this| this.0.num_nanoseconds().ok_or_else(out_of_range));
        fields.add_field_method_get("microseconds", |_, this| {
            this.0.num_microseconds().ok_or_else(out_of_range)
        });
        fields.add_field_method_get("milliseconds", |_, this| Ok(this.0.num_milliseconds()));
        fields.add_field_method_get("human", |_, this| Ok(this.human()));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(this.human()));
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (AnyUserData, AnyUserData)| {
            Ok(*a.borrow::<Self>()? == *b.borrow::<Self>()?)
        });
        methods.add_meta_method(MetaMethod::Add, |_, this, other: AnyUserData| {
            Ok(Self(this.0.checked_add(&other.borrow::<Self>()?.0).ok_or_else(out_of_range)?))
        });
        methods.add_meta_method(MetaMethod::Sub, |_, this, other: AnyUserData| {
            Ok(Self(this.0.checked_sub(&other.borrow::<Self>()?.0).ok_or_else(out_of_range)?))
        });
    }
}

/// Measures how long something takes. The time goes to the log at level `debug`.
struct Timer {
    label: String,
    started: Option<Instant>,
}

impl Timer {
    fn start(label: String) -> Self {
        Self { label, started: Some(Instant::now()) }
    }

    /// The seconds since the start; `None` if they were told before.
    fn done(&mut self) -> Option<f64> {
        let seconds = self.started.take()?.elapsed().as_secs_f64();
        tracing::debug!(target: "lua", label = self.label, seconds, "timer");
        Some(seconds)
    }
}

impl UserData for Timer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method_mut("done", |_, this, ()| Ok(this.done()));
        methods.add_meta_method_mut(MetaMethod::Close, |_, this, _: Value| Ok(this.done()));
    }
}
