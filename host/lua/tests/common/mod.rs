//! What the tests share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::sync::Arc;

use mlua::Lua;
use tailweir_core::{Batch, Block, Frame, Identity, Point, SegmentName};
use tailweir_lua::record::Records;

/// A batch of these lines.
pub(crate) fn batch<S: AsRef<str>>(lines: &[S]) -> Arc<Batch> {
    let mut text = String::new();
    for line in lines {
        // A record is one line; tests may break theirs for reading.
        text.push_str(&line.as_ref().replace('\n', " "));
        text.push('\n');
    }
    let identity = Identity { inode: 1, head_len: 0, head: 0 };
    let name = SegmentName::new("20250912-110801.440526026").unwrap();
    let block = Block::parse(name, identity, Point::default(), Frame::default(), text.into_bytes());
    assert_eq!(block.defects(), []);
    let len = block.len();
    Arc::new(Batch::of_block("test".into(), Arc::new(block), 0..len))
}

/// A Lua state with the globals `records` (an array), `r` (its first element) and `encode`.
pub(crate) fn lua_with_batch<S: AsRef<str>>(lines: &[S]) -> Lua {
    let lua = Lua::new();
    let records = Records::install(&lua).unwrap();
    let handle = records.batch_handle(&lua, batch(lines)).unwrap();
    let globals = lua.globals();
    globals.set("records", records.records_table(&lua, &handle).unwrap()).unwrap();
    globals.set("r", records.record(&lua, &handle, 0).unwrap()).unwrap();
    let serde = tailweir_lua::serde::install(&lua).unwrap();
    globals.set("encode", serde.get::<mlua::Function>("json_encode").unwrap()).unwrap();
    globals.set("serde", serde).unwrap();
    lua
}
