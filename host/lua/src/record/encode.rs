//! Lua values as JSON text. What was read from a batch and not written to is copied, not encoded.

use std::ffi::c_int;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::ffi::{self, lua_State};
use tailweir_core::json;

use super::lazy::{self, Shared, View};
use super::memo::{Kind, Member};

/// How deeply tables may be nested. Lazy tables within them are copied whole, however deep they are.
const MAX_DEPTH: usize = json::MAX_DEPTH;

/// A value that JSON has no text for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unencodable;

/// Appends the text of Lua values to a buffer.
///
/// All that needs dropping is in here, outside of the protected call in which [`Encoder::value`] runs.
pub(super) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    problem: Option<String>,
    /// Keys that lead to the problem, the innermost first.
    path: Vec<String>,
    depth: usize,
    /// Where the members of the plain tables are that are being encoded, the innermost last.
    members: Vec<Written>,
    /// The members of one table, while they are brought into order.
    unsorted: Vec<u8>,
}

/// A member in the output: where it begins, where its key ends, and where it ends.
#[derive(Debug, Clone, Copy)]
struct Written {
    start: usize,
    key_end: usize,
    end: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, problem: None, path: Vec::new(), depth: 0, members: Vec::new(), unsorted: Vec::new() }
    }

    /// What is wrong with the value, and where.
    pub(super) fn into_problem(mut self) -> Option<String> {
        let problem = self.problem.take()?;
        if self.path.is_empty() {
            return Some(problem);
        }
        self.path.reverse();
        Some(format!("{problem} at {}", self.path.concat().trim_start_matches('.')))
    }

    fn fail<T>(&mut self, problem: String) -> Result<T, Unencodable> {
        self.problem = Some(problem);
        Err(Unencodable)
    }

    /// Appends the value at `at`. The stack is as before when it returns `Ok`.
    ///
    /// # Safety
    /// `state` is valid, in a protected call.
    pub(super) unsafe fn value(
        &mut self,
        state: *mut lua_State,
        shared: &Shared,
        at: c_int,
    ) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees; slots for what the functions below push are reserved here.
        unsafe {
            match ffi::lua_type(state, at) {
                ffi::LUA_TNIL => self.out.extend_from_slice(b"null"),
                ffi::LUA_TBOOLEAN => {
                    let text: &[u8] = if ffi::lua_toboolean(state, at) != 0 { b"true" } else { b"false" };
                    self.out.extend_from_slice(text);
                }
                ffi::LUA_TNUMBER => return self.number(state, at),
                ffi::LUA_TSTRING => return self.string(state, at),
                ffi::LUA_TTABLE => {
                    if self.depth >= MAX_DEPTH {
                        return self.fail(format!(
                            "cannot encode tables nested more than {MAX_DEPTH} levels deep (does one contain itself?)"
                        ));
                    }
                    if ffi::lua_checkstack(state, 16) == 0 {
                        return self.fail("out of Lua stack".to_owned());
                    }
                    self.depth += 1;
                    let (at, top) = (ffi::lua_absindex(state, at), ffi::lua_gettop(state));
                    self.table(state, shared, at)?;
                    ffi::lua_settop(state, top);
                    self.depth -= 1;
                }
                ffi::LUA_TLIGHTUSERDATA if ffi::lua_touserdata(state, at).is_null() => {
                    self.out.extend_from_slice(b"null");
                }
                other => {
                    let name = std::ffi::CStr::from_ptr(ffi::lua_typename(state, other)).to_string_lossy();
                    return self.fail(format!("cannot encode a {name} as JSON"));
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Encoder::value`], with a number at `at`.
    unsafe fn number(&mut self, state: *mut lua_State, at: c_int) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees.
        let (integer, float) = unsafe { (ffi::lua_isinteger(state, at) != 0, ffi::lua_tonumber(state, at)) };
        if integer {
            // SAFETY: as above.
            let n = unsafe { ffi::lua_tointeger(state, at) };
            let _ = write!(self.out, "{n}");
            return Ok(());
        }
        if !float.is_finite() {
            return self.fail(format!("JSON has no number {float}"));
        }
        let _ = serde_json::to_writer(&mut *self.out, &float);
        Ok(())
    }

    /// # Safety
    /// As [`Encoder::value`], with a string at `at`.
    unsafe fn string(&mut self, state: *mut lua_State, at: c_int) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees; the bytes stay where they are while the string is on the stack.
        let bytes = unsafe { string_bytes(state, at) };
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let _ = serde_json::to_writer(&mut *self.out, text);
                Ok(())
            }
            Err(e) => self.fail(format!(
                "cannot encode a string that is not UTF-8 (byte {} of it)",
                e.valid_up_to() + 1
            )),
        }
    }

    /// # Safety
    /// As [`Encoder::value`], with a table at `at`, an absolute index, and 16 free slots.
    unsafe fn table(&mut self, state: *mut lua_State, shared: &Shared, at: c_int) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees.
        unsafe {
            if let Some(view) = lazy::open(state, at) {
                if !view.is_written() || !is_written_within(state, at) {
                    self.out.extend_from_slice(view.text().as_bytes());
                    return Ok(());
                }
                return self.lazy_table(state, view, at);
            }
            if let Some(origin) = lazy::open_origin(state, shared, at) {
                match origin.kind() {
                    // What was an empty object is an array if the script made it one, as any table is.
                    Kind::Object if origin.len() > 0 => return self.written_object(state, origin, at),
                    Kind::Object => {}
                    Kind::Array => {
                        if let Some(len) = written_array_len(state, origin, at) {
                            return self.written_array(state, origin, at, len);
                        }
                    }
                }
            }
            match ffi::lua_rawlen(state, at) {
                0 => self.map(state, shared, at),
                len => self.sequence(state, shared, at, len),
            }
        }
    }

    /// A lazy table that something within was written to: its members in their order.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn lazy_table(&mut self, state: *mut lua_State, view: View, at: c_int) -> Result<(), Unencodable> {
        let (open, close) = brackets(view.kind());
        self.out.push(open);
        let start = self.out.len();
        let mut ordinal = 0;
        while let Some(member) = view.get(ordinal) {
            self.original_key(member, start);
            let (text, nested) = (member.value, lazy::is_container(member.value));
            // SAFETY: as the caller guarantees; what is pushed is popped.
            unsafe {
                if nested && lazy::push_child(state, at, member) == ffi::LUA_TTABLE {
                    self.original_member(state, view, ordinal)?;
                } else {
                    self.out.extend_from_slice(text.as_bytes());
                }
                if nested {
                    ffi::lua_pop(state, 1);
                }
            }
            ordinal += 1;
        }
        self.out.push(close);
        Ok(())
    }

    /// An object that was written to: the members that it still has in their order, nulls included, then the new ones.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn written_object(
        &mut self,
        state: *mut lua_State,
        origin: View,
        at: c_int,
    ) -> Result<(), Unencodable> {
        self.out.push(b'{');
        let start = self.out.len();
        let mut ordinal = 0;
        // SAFETY: as the caller guarantees; what is pushed is popped.
        unsafe {
            while let Some(member) = lazy::push_key(state, origin, ordinal) {
                if ffi::lua_rawget(state, at) != ffi::LUA_TNIL {
                    self.original_key(member, start);
                    self.maybe_written(state, origin, ordinal)?;
                } else if member.value == "null" {
                    self.original_key(member, start);
                    self.out.extend_from_slice(b"null");
                }
                ffi::lua_pop(state, 1);
                ordinal += 1;
            }
        }
        // SAFETY: as the caller guarantees.
        unsafe { self.members(state, origin.shared(), at, Some(origin), start)? };
        self.out.push(b'}');
        Ok(())
    }

    /// An array that was written to, of `len` elements.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn written_array(
        &mut self,
        state: *mut lua_State,
        origin: View,
        at: c_int,
        len: usize,
    ) -> Result<(), Unencodable> {
        self.out.push(b'[');
        for ordinal in 0..len {
            if ordinal > 0 {
                self.out.push(b',');
            }
            // SAFETY: as the caller guarantees; what is pushed is popped.
            unsafe {
                ffi::lua_rawgeti(state, at, ordinal as i64 + 1);
                self.maybe_written(state, origin, ordinal)?;
                ffi::lua_pop(state, 1);
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// The value on the top of the stack, which stays there: the text that it was read from if it is what that text
    /// says, or else its own.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn maybe_written(
        &mut self,
        state: *mut lua_State,
        origin: View,
        ordinal: usize,
    ) -> Result<(), Unencodable> {
        let text = || origin.get(ordinal).map(|m| m.value).unwrap_or_default();
        // SAFETY: as the caller guarantees; what is pushed is popped.
        unsafe {
            if !text().is_empty() && !lazy::is_container(text()) {
                lazy::push_scalar(state, origin.shared(), text());
                let same = is_same(state);
                ffi::lua_pop(state, 1);
                if same {
                    self.out.extend_from_slice(text().as_bytes());
                    return Ok(());
                }
            }
            self.original_member(state, origin, ordinal)
        }
    }

    /// The value on the top of the stack, which is this member of `view`, or an element added behind the last.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn original_member(
        &mut self,
        state: *mut lua_State,
        view: View,
        ordinal: usize,
    ) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees.
        let done = unsafe { self.value(state, view.shared(), -1) };
        if done.is_err() {
            self.path.push(match view.get(ordinal) {
                Some(Member { kind: Kind::Object, key, .. }) => format!(".{}", json::unescape(key)),
                _ => format!("[{}]", ordinal + 1),
            });
        }
        done
    }

    /// The separator before a member and, in an object, its key as it stands in the record. `start` is where the
    /// members begin.
    fn original_key(&mut self, member: Member, start: usize) {
        if self.out.len() > start {
            self.out.push(b',');
        }
        if member.kind == Kind::Object {
            self.out.push(b'"');
            self.out.extend_from_slice(member.key.as_bytes());
            self.out.extend_from_slice(b"\":");
        }
    }

    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn sequence(
        &mut self,
        state: *mut lua_State,
        shared: &Shared,
        at: c_int,
        len: usize,
    ) -> Result<(), Unencodable> {
        self.out.push(b'[');
        for n in 1..=len {
            if n > 1 {
                self.out.push(b',');
            }
            // SAFETY: as the caller guarantees; what is pushed is popped.
            unsafe {
                ffi::lua_rawgeti(state, at, n as i64);
                if let Err(e) = self.value(state, shared, -1) {
                    self.path.push(format!("[{n}]"));
                    return Err(e);
                }
                ffi::lua_pop(state, 1);
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn map(&mut self, state: *mut lua_State, shared: &Shared, at: c_int) -> Result<(), Unencodable> {
        self.out.push(b'{');
        let start = self.out.len();
        // SAFETY: as the caller guarantees.
        unsafe { self.members(state, shared, at, None, start)? };
        self.out.push(b'}');
        Ok(())
    }

    /// The members of the plain table at `at` but those that `origin` has, in the order of their keys: Lua's own differs from
    /// run to run, and what a script answers is to be the same each time.
    ///
    /// # Safety
    /// As [`Encoder::table`].
    unsafe fn members(
        &mut self,
        state: *mut lua_State,
        shared: &Shared,
        at: c_int,
        origin: Option<View>,
        start: usize,
    ) -> Result<(), Unencodable> {
        let first = self.members.len();
        // SAFETY: as the caller guarantees; keys are not converted in place, and what is pushed is popped.
        unsafe {
            ffi::lua_pushnil(state);
            let key = ffi::lua_gettop(state);
            while ffi::lua_next(state, at) != 0 {
                let known = origin.is_some_and(|origin| {
                    ffi::lua_type(state, key) == ffi::LUA_TSTRING
                        && origin.find(string_bytes(state, key)).is_some()
                });
                if !known {
                    if self.out.len() > start {
                        self.out.push(b',');
                    }
                    let start = self.out.len();
                    self.member_key(state, key)?;
                    let key_end = self.out.len();
                    self.out.push(b':');
                    if let Err(e) = self.value(state, shared, -1) {
                        self.path.push(key_path(state, key));
                        return Err(e);
                    }
                    self.members.push(Written { start, key_end, end: self.out.len() });
                }
                ffi::lua_settop(state, key);
            }
        }
        self.sort(first);
        Ok(())
    }

    /// Brings the members from the `first` of the noted ones, which end the output, into order, and forgets them.
    fn sort(&mut self, first: usize) {
        let Self { out, members, unsorted, .. } = self;
        let new = &mut members[first..];
        // Without the quote at the end, which would come behind some characters of longer keys.
        if !new.is_sorted_by_key(|member| &out[member.start..member.key_end - 1]) {
            let from = new[0].start;
            unsorted.clear();
            unsorted.extend_from_slice(&out[from..]);
            out.truncate(from);
            new.sort_unstable_by_key(|member| &unsorted[member.start - from..member.key_end - 1 - from]);
            for member in new {
                if out.len() > from {
                    out.push(b',');
                }
                out.extend_from_slice(&unsorted[member.start - from..member.end - from]);
            }
        }
        members.truncate(first);
    }

    /// # Safety
    /// As [`Encoder::value`].
    unsafe fn member_key(&mut self, state: *mut lua_State, key: c_int) -> Result<(), Unencodable> {
        // SAFETY: as the caller guarantees.
        unsafe {
            match ffi::lua_type(state, key) {
                ffi::LUA_TSTRING => self.string(state, key),
                ffi::LUA_TNUMBER => {
                    self.out.push(b'"');
                    self.number(state, key)?;
                    self.out.push(b'"');
                    Ok(())
                }
                ffi::LUA_TBOOLEAN => {
                    let text: &[u8] =
                        if ffi::lua_toboolean(state, key) != 0 { b"\"true\"" } else { b"\"false\"" };
                    self.out.extend_from_slice(text);
                    Ok(())
                }
                other => {
                    let name = std::ffi::CStr::from_ptr(ffi::lua_typename(state, other)).to_string_lossy();
                    self.fail(format!("cannot encode a {name} as the key of a JSON object"))
                }
            }
        }
    }
}

fn brackets(kind: Kind) -> (u8, u8) {
    match kind {
        Kind::Object => (b'{', b'}'),
        Kind::Array => (b'[', b']'),
    }
}

/// The bytes of the string at `at`, for as long as it is there.
///
/// # Safety
/// `state` is valid and a string is at `at`.
unsafe fn string_bytes<'a>(state: *mut lua_State, at: c_int) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: as the caller guarantees; of a string this converts nothing.
    unsafe {
        let bytes = ffi::lua_tolstring(state, at, &raw mut len);
        std::slice::from_raw_parts(bytes.cast(), len)
    }
}

/// A key as part of a path in a message.
///
/// # Safety
/// `state` is valid and a key is at `at`.
unsafe fn key_path(state: *mut lua_State, at: c_int) -> String {
    // SAFETY: as the caller guarantees; numbers are not converted in place.
    unsafe {
        match ffi::lua_type(state, at) {
            ffi::LUA_TSTRING => format!(".{}", String::from_utf8_lossy(string_bytes(state, at))),
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, at) != 0 => {
                format!("[{}]", ffi::lua_tointeger(state, at))
            }
            ffi::LUA_TNUMBER => format!("[{}]", ffi::lua_tonumber(state, at)),
            _ => format!("[{}]", ffi::lua_toboolean(state, at) != 0),
        }
    }
}

/// Whether a member of the lazy table at `at`, or something within one, was written to.
///
/// # Safety
/// `state` is valid and has three free slots; the table is lazy.
unsafe fn is_written_within(state: *mut lua_State, at: c_int) -> bool {
    // SAFETY: as the caller guarantees; deeper down, slots are reserved first.
    unsafe {
        if ffi::lua_checkstack(state, 8) == 0 {
            return true;
        }
        let (at, top) = (ffi::lua_absindex(state, at), ffi::lua_gettop(state));
        let mut written = false;
        ffi::lua_pushnil(state);
        while !written && ffi::lua_next(state, at) != 0 {
            if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
                let child = ffi::lua_gettop(state);
                written = lazy::open(state, child).is_none() || is_written_within(state, child);
            }
            ffi::lua_settop(state, top + 1);
        }
        ffi::lua_settop(state, top);
        written
    }
}

/// How many elements the table at `at` has, which was made from an array: up to its last one, and the untouched nulls
/// that follow. `None` if it is no longer an array: it has other keys, or one far beyond the others.
///
/// # Safety
/// `state` is valid and has three free slots.
unsafe fn written_array_len(state: *mut lua_State, origin: View, at: c_int) -> Option<usize> {
    let (mut count, mut last) = (0usize, 0usize);
    // SAFETY: as the caller guarantees; keys are not converted in place.
    unsafe {
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, at) != 0 {
            ffi::lua_pop(state, 1);
            let number = if ffi::lua_isinteger(state, -1) != 0 { ffi::lua_tointeger(state, -1) } else { 0 };
            if number < 1 {
                ffi::lua_pop(state, 1);
                return None;
            }
            count += 1;
            last = last.max(number as usize);
        }
    }
    if last > origin.len().max(2 * count + 8) {
        return None;
    }
    while origin.get(last).is_some_and(|m| m.value == "null") {
        last += 1;
    }
    Some(last)
}

/// Runs the encoder over the value at `at`; a panic becomes a problem.
///
/// # Safety
/// As [`Encoder::value`].
pub(super) unsafe fn run(encoder: &mut Encoder<'_>, state: *mut lua_State, shared: &Shared, at: c_int) {
    // SAFETY: as the caller guarantees.
    let done = catch_unwind(AssertUnwindSafe(|| unsafe { encoder.value(state, shared, at) }));
    if done.is_err() {
        encoder.problem = Some("internal error while encoding".to_owned());
    }
}

/// Whether the two values on the top of the stack are one value, and of one type: to Lua, 1 and 1.0 are equal, and so are the
/// two zeros.
///
/// # Safety
/// `state` is a Lua state with two values on its stack.
unsafe fn is_same(state: *mut lua_State) -> bool {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_rawequal(state, -1, -2) != 0
            && ffi::lua_isinteger(state, -1) == ffi::lua_isinteger(state, -2)
            && (ffi::lua_type(state, -1) != ffi::LUA_TNUMBER
                || ffi::lua_tonumber(state, -1).is_sign_negative()
                    == ffi::lua_tonumber(state, -2).is_sign_negative())
    }
}
