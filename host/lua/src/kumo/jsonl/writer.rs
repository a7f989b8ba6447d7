//! Writers of segments.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Lua, LuaString, MetaMethod, UserData, UserDataMethods, Value};
use tailweir_segments::{WriteError, WriterOptions};

use crate::error::{fail, lua_text, raise, with_causes};
use crate::kumo::{Close, Host};
use crate::options::Options;
use crate::record::Records;

const WRITER: &[&str] = &[
    "log_dir",
    "max_file_size",
    "compression_level",
    "max_segment_duration",
    "suffix",
    "tz",
    "max_record_size",
    "frame_bytes",
    "flush_interval",
];

/// The largest record and line end that a tailer reads, as long as it is not told otherwise.
const MAX_RECORD_SIZE: usize = 64 << 20;

/// `kumo.jsonl.new_writer`.
pub(super) fn open(lua: &Lua, options: Value, host: &Host) -> mlua::Result<Writer> {
    let options = Options::new(lua, "kumo.jsonl.new_writer", options, WRITER)?;
    let directory = options.string("log_dir")?;
    let mut writer = WriterOptions::new(options.required("log_dir", directory)?);
    if let Some(size) = options.size("max_file_size")? {
        writer.max_file_size = size as u64;
    }
    if let Some(level) = options.integer("compression_level", 0, 22)? {
        writer.compression_level = level as i32;
    }
    if let Some(bytes) = options.size("frame_bytes")? {
        writer.frame_bytes = bytes as u64;
    }
    if let Some(interval) = options.interval("flush_interval")? {
        writer.flush_interval = Some(interval);
    }
    writer.max_segment_duration = options.interval("max_segment_duration")?;
    writer.suffix = options.string("suffix")?;
    writer.tz = options.string("tz")?;
    let max_record_size = options.size("max_record_size")?.unwrap_or(MAX_RECORD_SIZE);
    let writer = tailweir_segments::Writer::new(writer).map_err(|e| options.failed(&e))?;
    let writer = Rc::new(Open(RefCell::new(Some(writer))));
    let weak = Rc::downgrade(&writer);
    host.remember_to_finish(weak);
    Ok(Writer { writer, max_record_size })
}

/// A writer; empty once it is closed.
struct Open(RefCell<Option<tailweir_segments::Writer>>);

impl Open {
    fn finish(&self) -> Result<(), WriteError> {
        self.0.take().map_or(Ok(()), tailweir_segments::Writer::close)
    }
}

impl Close for Open {
    fn close(&self) {
        if let Err(error) = self.finish() {
            tracing::error!("{}", with_causes(&error));
        }
    }
}

/// What `kumo.jsonl.new_writer` returns.
pub(super) struct Writer {
    writer: Rc<Open>,
    max_record_size: usize,
}

impl Writer {
    fn with(
        &self,
        act: impl FnOnce(&tailweir_segments::Writer) -> Result<(), WriteError>,
    ) -> mlua::Result<()> {
        match &*self.writer.0.borrow() {
            Some(writer) => act(writer).map_err(|e| raise(&e)),
            None => Err(raise(&WriteError::Closed)),
        }
    }

    fn write(&self, line: &[u8]) -> mlua::Result<()> {
        if line.len() >= self.max_record_size {
            let (len, limit) = (line.len() + 1, self.max_record_size);
            return Err(fail(format!(
                "the record and its line end have {len} bytes, more than max_record_size ({limit})"
            )));
        }
        self.with(|writer| writer.write_line(line))
    }

    fn close(&self) -> mlua::Result<()> {
        self.writer.finish().map_err(|e| raise(&e))
    }
}

impl UserData for Writer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("write_line", |_, this, line: LuaString| {
            let line = line.as_bytes();
            this.write(line.strip_suffix(b"\n").unwrap_or(&line))
        });
        methods.add_method("write_record", |lua, this, record: Value| {
            let mut text = Vec::new();
            let encoded = Records::install(lua)?.encode(lua, &record, &mut text);
            encoded.map_err(|e| fail(format!("writer:write_record: {}", lua_text(&e))))?;
            this.write(&text)
        });
        methods.add_method("flush", |_, this, ()| this.with(tailweir_segments::Writer::flush));
        methods.add_method("close", |_, this, ()| this.close());
        methods.add_meta_method(MetaMethod::Close, |_, this, _: Value| this.close());
    }
}
