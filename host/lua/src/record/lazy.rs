//! Lazy tables, seen from Lua: the metamethods, and the globals that know lazy tables.
//!
//! A lazy table is a Lua table without fields of its own. It holds, under light-userdata keys that no script can make,
//! its place in its batch, and the lazy tables of those of its members that are objects or arrays and were asked for.
//! Its metatable, one for each handle, holds the handle of its batch. All else is looked up in the batch's text. The first write turns it into a plain table; what it was
//! made from is remembered beside it, in the table of origins, so that it can be encoded with its order and its nulls.
//!
//! Everything here runs as C functions of Lua, where an error leaves by `longjmp`: no value that needs dropping may be
//! alive across a call that can raise one. What can panic is computed inside [`guarded`].

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};
use tailweir_core::{Batch, Record, json};

use super::memo::{Index, Kind, Member, Memo, Place};

/// Registry keys, by address.
static ORIGINS: u8 = 0;
static SHARED: u8 = 0;

/// Hidden key of a metatable of lazy tables.
const HANDLE: *const c_void = std::ptr::without_provenance(1);
/// Hidden key of a lazy table. Those of its children are made by [`child_key`] and never equal this.
const PLACE: *const c_void = std::ptr::without_provenance(2);

const SHARED_MAGIC: u64 = 0x7461_696c_7765_6972;
const HANDLE_MAGIC: u64 = 0x6c61_7a79_6261_7463;

/// Bytes of batches that Lua objects keep alive, which Lua's collector does not see.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    live: Cell<usize>,
    /// What was live after the last collection on account of batches.
    floor: Cell<usize>,
}

impl Pace {
    /// Counts `bytes` as kept alive until the charge is dropped.
    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.live.set(self.live.get() + bytes);
        Charge { pace: self.clone(), bytes }
    }

    /// Whether so many bytes have come since the last collection that garbage should be looked for.
    pub(super) fn is_due(&self, allowance: usize) -> bool {
        self.live.get() > self.floor.get().saturating_add(allowance)
    }

    /// Notes that there was a collection.
    pub(super) fn collected(&self) {
        self.floor.set(self.live.get());
    }

    /// Bytes that are counted as alive now.
    pub(super) fn live(&self) -> usize {
        self.live.get()
    }
}

/// Some bytes counted by a [`Pace`].
#[derive(Debug)]
pub(crate) struct Charge {
    pace: Rc<Pace>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pace.live.set(self.pace.live.get() - self.bytes);
    }
}

/// What all lazy tables of a Lua state share; the content of a userdata in the registry.
pub(super) struct Shared {
    magic: u64,
    memo: RefCell<Memo>,
    scratch: RefCell<String>,
    /// Whether any lazy table was ever written to.
    written: Cell<bool>,
}

/// A batch, as the content of a userdata that all its lazy tables hold on to. Its first user value is the metatable
/// of lazy tables.
pub(super) struct Handle {
    magic: u64,
    shared: *const Shared,
    batch: Option<Arc<Batch>>,
    charge: Option<Charge>,
    /// Whether any lazy table of the batch was ever written to.
    written: Cell<bool>,
}

impl Handle {
    fn record(&self, record: usize) -> Option<Record<'_>> {
        self.batch.as_ref()?.get(record)
    }

    /// A record's text, or nothing if there is no such record.
    fn text(&self, record: usize) -> &str {
        self.record(record).map(|r| r.text()).unwrap_or_default()
    }

    fn owner(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// What a lazy table stands for. The references are to the content of userdata: whoever has one has the handle on the
/// Lua stack, where its memory is safe from collection.
///
/// Texts got from it are valid until Lua next runs its collector, which pushing a string or making a table may do: if a
/// finalizer has brought the record back to life, the handle's own finalizer can be what runs then, and the texts go.
/// Looking them up again finds what there still is.
#[derive(Clone, Copy)]
pub(super) struct View {
    handle: &'static Handle,
    shared: &'static Shared,
    place: Place,
}

impl View {
    /// The text of the whole record.
    pub(super) fn record(&self) -> &'static str {
        self.handle.text(self.place.record())
    }

    fn with<R>(&self, f: impl FnOnce(&Index) -> R) -> R {
        f(self.shared.memo.borrow_mut().index(self.handle.owner(), self.place, || self.record()))
    }

    pub(super) fn kind(&self) -> Kind {
        self.with(Index::kind)
    }

    pub(super) fn len(&self) -> usize {
        self.with(Index::len)
    }

    pub(super) fn get(&self, ordinal: usize) -> Option<Member> {
        self.with(|index| index.get(ordinal))
    }

    pub(super) fn border(&self) -> usize {
        self.with(Index::border)
    }

    /// The member under a key of an object.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<Member> {
        if let Some(record) = self.handle.record(self.place.record())
            && is_space(record.text().as_bytes().get(..self.place.start())?)
        {
            return field(record, key);
        }
        self.shared.memo.borrow_mut().find(self.handle.owner(), self.place, || self.record(), key)
    }

    /// The ordinal of the member under a key of an object.
    fn ordinal(&self, key: &[u8]) -> Option<usize> {
        self.shared.memo.borrow_mut().ordinal(self.handle.owner(), self.place, || self.record(), key)
    }

    /// The element that has this number, counted from 1, in an array.
    fn find_number(&self, number: i64) -> Option<Member> {
        let ordinal = usize::try_from(number.checked_sub(1)?).ok()?;
        self.get(ordinal).filter(|member| member.kind == Kind::Array)
    }

    /// Whether any lazy table of the batch was ever written to.
    pub(super) fn is_written(&self) -> bool {
        self.handle.written.get()
    }

    /// Its JSON text, as it is in the record; the whole record if it is one.
    pub(super) fn text(&self) -> &'static str {
        let record = self.record();
        let top = record.bytes().position(|b| !matches!(b, b' ' | b'\t' | b'\r')).unwrap_or(0);
        if self.place.start() == top {
            return record;
        }
        let Some(tail) = record.get(self.place.start()..) else { return "" };
        // The closing bracket is the first one behind the last value.
        let last = self.with(Index::end).map_or(1, |end| end - self.place.start());
        let close =
            tail.as_bytes().get(last..).and_then(|rest| rest.iter().position(|b| matches!(b, b']' | b'}')));
        tail.get(..last + close.unwrap_or(0) + 1).unwrap_or_default()
    }
}

/// The member of a record that is an object, by the index of its members that came with it.
#[inline]
fn field(record: Record<'static>, key: &[u8]) -> Option<Member> {
    let value = record.field(std::str::from_utf8(key).ok()?)?;
    let start = value.as_ptr().addr().checked_sub(record.text().as_ptr().addr())?;
    Some(Member { kind: Kind::Object, key: "", value, start: u32::try_from(start).ok()? })
}

/// Whether what comes before a bracket is only white space, so that it is the record's own and not one within it.
#[inline]
fn is_space(before: &[u8]) -> bool {
    before.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r'))
}

/// Runs what may panic; a panic becomes a Lua error.
///
/// # Safety
/// Called from within a protected call of `state`, with nothing alive that needs dropping.
unsafe fn guarded<R: Copy>(state: *mut lua_State, f: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => {
            drop(payload);
            // SAFETY: as the caller guarantees; the format has no directive.
            unsafe {
                ffi::luaL_error(state, c"internal error in a lazy record".as_ptr());
            }
            unreachable!("luaL_error does not return")
        }
    }
}

fn child_key(start: u32) -> *const c_void {
    std::ptr::without_provenance((start as usize) << 2 | 3)
}

/// What the lazy table at `at` stands for, with its handle pushed; `None` and nothing pushed if the value is no lazy
/// table.
///
/// # Safety
/// `state` is valid, has two free slots, and the result is not used after the handle has left the stack.
#[inline]
pub(super) unsafe fn open(state: *mut lua_State, at: c_int) -> Option<View> {
    // SAFETY: reading raw fields of what was seen to be a table needs only the stack slots. A userdata is taken for a
    // handle only if it has a handle's size and magic number, so that even a forged table is harmless.
    unsafe {
        if ffi::lua_type(state, at) != ffi::LUA_TTABLE {
            return None;
        }
        let at = ffi::lua_absindex(state, at);
        if ffi::lua_getmetatable(state, at) == 0 {
            return None;
        }
        ffi::lua_rawgetp(state, -1, HANDLE);
        ffi::lua_replace(state, -2);
        let Some(handle) = handle_at(state, -1) else {
            ffi::lua_pop(state, 1);
            return None;
        };
        ffi::lua_rawgetp(state, at, PLACE);
        let place = Place::from_integer(ffi::lua_tointeger(state, -1));
        ffi::lua_pop(state, 1);
        Some(View { handle, shared: &*handle.shared, place })
    }
}

/// The handle at `at`.
///
/// # Safety
/// As [`open`].
unsafe fn handle_at(state: *mut lua_State, at: c_int) -> Option<&'static Handle> {
    // SAFETY: as the caller guarantees; size and magic number are looked at before anything else.
    unsafe {
        if ffi::lua_type(state, at) != ffi::LUA_TUSERDATA || ffi::lua_rawlen(state, at) != size_of::<Handle>()
        {
            return None;
        }
        let handle = ffi::lua_touserdata(state, at) as *const Handle;
        ((*handle).magic == HANDLE_MAGIC).then(|| &*handle)
    }
}

/// Pushes a new lazy table.
///
/// # Safety
/// `state` is valid, in a protected call, with three free slots; a handle is at `handle`, an absolute index.
#[inline]
unsafe fn push_lazy(state: *mut lua_State, handle: c_int, place: Place) {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushinteger(state, place.to_integer());
        ffi::lua_rawsetp(state, -2, PLACE);
        ffi::lua_getiuservalue(state, handle, 1);
        ffi::lua_setmetatable(state, -2);
    }
}

/// Pushes the record at `index` of the handle at `handle`; nil if there is none.
///
/// # Safety
/// As [`push_lazy`].
#[inline]
pub(super) unsafe fn push_record(state: *mut lua_State, handle: c_int, index: usize) {
    // SAFETY: as the caller guarantees.
    unsafe {
        let Some(content) = handle_at(state, handle) else { return ffi::lua_pushnil(state) };
        if let Ok(record) = u32::try_from(index)
            && guarded(state, || content.record(index).is_some_and(|r| r.opens_with_key()))
        {
            return push_lazy(state, handle, Place::new(record, 0));
        }
        let text = guarded(state, || content.text(index));
        let bytes = text.as_bytes();
        let start = if matches!(bytes.first(), Some(b'{')) {
            0
        } else {
            bytes.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\r')).unwrap_or(0)
        };
        match (bytes.get(start), u32::try_from(index), u32::try_from(start)) {
            (Some(b'{' | b'['), Ok(record), Ok(start)) => push_lazy(state, handle, Place::new(record, start)),
            (Some(_), ..) => push_scalar(state, &*content.shared, text.trim_matches([' ', '\t', '\r'])),
            (None, ..) => ffi::lua_pushnil(state),
        }
    }
}

/// Pushes a member of `view`: its own lazy table, always the same, if it is an object or array.
///
/// # Safety
/// As [`push_lazy`] with five free slots; the lazy table is at `parent`, its handle at `handle`, both absolute.
#[inline]
pub(super) unsafe fn push_member(
    state: *mut lua_State,
    view: View,
    parent: c_int,
    handle: c_int,
    member: Member,
) {
    let text = member.value;
    // SAFETY: as the caller guarantees.
    unsafe {
        if !is_container(text) {
            return push_scalar(state, view.shared, text);
        }
        let key = child_key(member.start);
        if ffi::lua_rawgetp(state, parent, key) == ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_pop(state, 1);
        push_lazy(state, handle, view.place.child(member));
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawsetp(state, parent, key);
    }
}

/// Whether a value's text is that of an object or array.
pub(super) fn is_container(text: &str) -> bool {
    matches!(text.as_bytes().first(), Some(b'{' | b'['))
}

/// Pushes what is stored under the hidden key of a container: its lazy table, what became of it, or nil.
///
/// # Safety
/// `state` is valid with a free slot; a table is at `parent`.
pub(super) unsafe fn push_child(state: *mut lua_State, parent: c_int, member: Member) -> c_int {
    // SAFETY: as the caller guarantees.
    unsafe { ffi::lua_rawgetp(state, parent, child_key(member.start)) }
}

/// Pushes the key of a member, or the number of an element, and returns the member; `None` and nothing pushed if there
/// is none.
///
/// # Safety
/// As [`push_lazy`].
pub(super) unsafe fn push_key(state: *mut lua_State, view: View, ordinal: usize) -> Option<Member> {
    // SAFETY: as the caller guarantees. The member is looked up again once the key is pushed: see [`View`].
    unsafe {
        let member = guarded(state, || view.get(ordinal))?;
        if member.kind == Kind::Array {
            ffi::lua_pushinteger(state, ordinal as i64 + 1);
            return Some(member);
        }
        push_string(state, view.shared, member.key);
        let member = guarded(state, || view.get(ordinal));
        if member.is_none() {
            ffi::lua_pop(state, 1);
        }
        member
    }
}

/// Pushes the string that a string's text between its quotes stands for.
///
/// # Safety
/// As [`push_lazy`].
#[inline]
unsafe fn push_string(state: *mut lua_State, shared: &Shared, raw: &str) {
    // SAFETY: as the caller guarantees. The unescaped text lies in the scratch string while Lua copies it, so nothing
    // here needs dropping if Lua is out of memory.
    unsafe {
        let text: &str = if memchr::memchr(b'\\', raw.as_bytes()).is_some() {
            let (pointer, len) = guarded(state, || {
                let mut scratch = shared.scratch.borrow_mut();
                *scratch = json::unescape(raw).into_owned();
                (scratch.as_ptr(), scratch.len())
            });
            std::str::from_utf8_unchecked(std::slice::from_raw_parts(pointer, len))
        } else {
            raw
        };
        ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
    }
}

/// Pushes null (as nil), a boolean, number or string from its text.
///
/// # Safety
/// As [`push_lazy`].
#[inline]
pub(super) unsafe fn push_scalar(state: *mut lua_State, shared: &Shared, text: &str) {
    // SAFETY: as the caller guarantees.
    unsafe {
        match text.as_bytes().first() {
            Some(b'"') => push_string(state, shared, text.get(1..text.len() - 1).unwrap_or_default()),
            Some(b't') => ffi::lua_pushboolean(state, 1),
            Some(b'f') => ffi::lua_pushboolean(state, 0),
            Some(b'n') | None => ffi::lua_pushnil(state),
            Some(_) => match number(text) {
                Number::Integer(n) => ffi::lua_pushinteger(state, n),
                Number::Float(n) => ffi::lua_pushnumber(state, n),
            },
        }
    }
}

impl View {
    /// The state that all lazy tables share.
    pub(super) fn shared(&self) -> &'static Shared {
        self.shared
    }
}

enum Number {
    Integer(i64),
    Float(f64),
}

/// What a number's text is in Lua: an integer if it is written as one and fits, else a float.
fn number(text: &str) -> Number {
    if text != "-0"
        && let Ok(n) = text.parse::<i64>()
    {
        return Number::Integer(n);
    }
    Number::Float(text.parse().unwrap_or(f64::NAN))
}

/// Turns the lazy table at `table` into a plain one with the same members, and remembers what it was made from.
/// Objects and arrays within it stay lazy, and are the same ones as before.
///
/// # Safety
/// `state` is valid, in a protected call, with twelve free slots; `table` is an absolute index.
unsafe fn make_plain(state: *mut lua_State, table: c_int) {
    // SAFETY: as the caller guarantees. The hidden fields go last: if Lua runs out of memory before, the table holds
    // members that are right and is still lazy.
    unsafe {
        let top = ffi::lua_gettop(state);
        let Some(view) = open(state, table) else { return };
        let handle = top + 1;
        let len = guarded(state, || view.len());
        for ordinal in 0..len {
            let Some(member) = push_key(state, view, ordinal) else { break };
            push_member(state, view, table, handle, member);
            if ffi::lua_type(state, -1) == ffi::LUA_TNIL {
                // In an array, a place holder makes room in sequence; it is taken out below.
                ffi::lua_pop(state, 1);
                ffi::lua_pushboolean(state, 0);
                if member.kind == Kind::Object {
                    ffi::lua_pop(state, 2);
                    continue;
                }
            }
            ffi::lua_rawset(state, table);
        }
        remember(state, view, table, handle);
        for ordinal in 0..len {
            let Some(member) = guarded(state, || view.get(ordinal)) else { break };
            if is_container(member.value) {
                ffi::lua_pushnil(state);
                ffi::lua_rawsetp(state, table, child_key(member.start));
            } else if member.kind == Kind::Array && member.value == "null" {
                ffi::lua_pushnil(state);
                ffi::lua_rawseti(state, table, ordinal as i64 + 1);
            }
        }
        ffi::lua_pushnil(state);
        ffi::lua_rawsetp(state, table, PLACE);
        ffi::lua_pushnil(state);
        ffi::lua_setmetatable(state, table);
        ffi::lua_settop(state, top);
    }
}

/// Stores a fresh lazy table as the origin of the one at `table`.
///
/// # Safety
/// As [`make_plain`], with the handle at `handle`.
unsafe fn remember(state: *mut lua_State, view: View, table: c_int, handle: c_int) {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, &raw const ORIGINS as *const c_void);
        ffi::lua_pushvalue(state, table);
        push_lazy(state, handle, view.place);
        ffi::lua_rawset(state, -3);
        ffi::lua_pop(state, 1);
    }
    view.handle.written.set(true);
    view.shared.written.set(true);
}

/// Pushes the origin of the table at `table`; `None` and nothing pushed if it has none.
///
/// # Safety
/// `state` is valid with four free slots. The origin's handle is on the stack only as long as the origin is.
pub(super) unsafe fn open_origin(state: *mut lua_State, shared: &Shared, table: c_int) -> Option<View> {
    if !shared.written.get() {
        return None;
    }
    // SAFETY: as the caller guarantees; the origin holds the handle, and the origin stays on the stack.
    unsafe {
        let table = ffi::lua_absindex(state, table);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, &raw const ORIGINS as *const c_void);
        ffi::lua_pushvalue(state, table);
        ffi::lua_rawget(state, -2);
        ffi::lua_remove(state, -2);
        match open(state, -1) {
            Some(view) => {
                ffi::lua_pop(state, 1);
                Some(view)
            }
            None => {
                ffi::lua_pop(state, 1);
                None
            }
        }
    }
}

/// A key as Lua has it, as far as records have such keys.
#[derive(Clone, Copy)]
enum Key<'a> {
    Name(&'a [u8]),
    Number(i64),
}

/// The key at `key`.
///
/// # Safety
/// `state` is valid, and the value stays where it is for as long as the key is used.
unsafe fn key_at<'a>(state: *mut lua_State, key: c_int) -> Option<Key<'a>> {
    // SAFETY: a string's bytes stay where they are while it is on the stack; neither call converts in place.
    unsafe {
        match ffi::lua_type(state, key) {
            ffi::LUA_TSTRING => {
                let mut len = 0;
                let bytes = ffi::lua_tolstring(state, key, &raw mut len);
                Some(Key::Name(std::slice::from_raw_parts(bytes.cast::<u8>(), len)))
            }
            ffi::LUA_TNUMBER => {
                let mut whole = 0;
                let number = ffi::lua_tointegerx(state, key, &raw mut whole);
                (whole != 0).then_some(Key::Number(number))
            }
            _ => None,
        }
    }
}

/// The ordinal of the member under the Lua value at `key`.
///
/// # Safety
/// `state` is valid and in a protected call.
unsafe fn ordinal_at(state: *mut lua_State, view: View, key: c_int) -> Option<usize> {
    // SAFETY: as the caller guarantees.
    unsafe {
        match key_at(state, key)? {
            Key::Name(name) => guarded(state, || view.ordinal(name)),
            Key::Number(number) => guarded(state, || view.find_number(number)).map(|_| number as usize - 1),
        }
    }
}

/// Pushes the member of the lazy table at 1 under the key at 2, whatever else is on the stack.
///
/// # Safety
/// As a C function of Lua, with a lazy table's `view` and its handle at `handle`.
#[inline]
unsafe fn look_up(state: *mut lua_State, view: View, handle: c_int) {
    // SAFETY: as the caller guarantees.
    unsafe {
        let member = match key_at(state, 2) {
            Some(Key::Name(name)) => guarded(state, || view.find(name)),
            Some(Key::Number(number)) => guarded(state, || view.find_number(number)),
            None => None,
        };
        match member {
            Some(member) => push_member(state, view, 1, handle, member),
            None => ffi::lua_pushnil(state),
        }
    }
}

/// `__index(t, k)`. Upvalue: the handle whose metatable it is in.
unsafe extern "C-unwind" fn meta_index(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots, and this upvalue, which `push_metatable` has seen to be a handle.
    // No script gets hold of it: Lua calls it, with a table that has the metatable.
    unsafe {
        let handle = &*(ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)) as *const Handle);
        ffi::lua_settop(state, 2);
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_rawgetp(state, 1, PLACE);
        let place = Place::from_integer(ffi::lua_tointegerx(state, 3, std::ptr::null_mut()));
        ffi::lua_settop(state, 2);
        look_up(state, View { handle, shared: &*handle.shared, place }, ffi::lua_upvalueindex(1));
    }
    1
}

/// `__newindex(t, k, v)`.
unsafe extern "C-unwind" fn meta_newindex(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        ffi::lua_settop(state, 3);
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        make_plain(state, 1);
        ffi::lua_rawset(state, 1);
    }
    0
}

/// `__len(t)`.
unsafe extern "C-unwind" fn meta_len(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        let len = match open(state, 1) {
            Some(view) => guarded(state, || view.border()),
            None => 0,
        };
        ffi::lua_pushinteger(state, len as i64);
    }
    1
}

/// `__pairs(t)`: an iterator that walks the members in their order in the text, also if the table becomes plain
/// meanwhile.
unsafe extern "C-unwind" fn meta_pairs(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, &raw const SHARED as *const c_void);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushinteger(state, 0);
        ffi::lua_pushcclosure(state, pairs_step, 3);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushnil(state);
    }
    3
}

/// The iterator of [`meta_pairs`]. Upvalues: the shared state, the table, the ordinal of the next member.
unsafe extern "C-unwind" fn pairs_step(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots, and these upvalues.
    unsafe {
        let counter = ffi::lua_upvalueindex(3);
        ffi::lua_settop(state, 0);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let mut ordinal = ffi::lua_tointeger(state, counter).max(0) as usize;
        let found = step(state, shared_upvalue(state), &mut ordinal);
        ffi::lua_pushinteger(state, ordinal as i64);
        ffi::lua_replace(state, counter);
        found
    }
}

/// Pushes key and value of the first member at or after `ordinal` that the table at 1, lazy or once lazy, still has,
/// and moves `ordinal` behind it. Returns how many values it pushed: two, or one, nil, at the end.
///
/// # Safety
/// As a C function of Lua, with the table at 1.
unsafe fn step(state: *mut lua_State, shared: &Shared, ordinal: &mut usize) -> c_int {
    // SAFETY: as the caller guarantees.
    unsafe {
        let lazy = open(state, 1);
        let handle = ffi::lua_gettop(state);
        let Some(view) = lazy.or_else(|| open_origin(state, shared, 1)) else {
            ffi::lua_pushnil(state);
            return 1;
        };
        while let Some(member) = push_key(state, view, *ordinal) {
            *ordinal += 1;
            if lazy.is_some() {
                push_member(state, view, 1, handle, member);
            } else {
                ffi::lua_pushvalue(state, -1);
                ffi::lua_rawget(state, 1);
            }
            if ffi::lua_type(state, -1) != ffi::LUA_TNIL {
                return 2;
            }
            ffi::lua_pop(state, 2);
        }
        ffi::lua_pushnil(state);
        1
    }
}

/// The shared state, which is upvalue 1 of all functions that are installed.
///
/// # Safety
/// Called from within such a function.
unsafe fn shared_upvalue(state: *mut lua_State) -> &'static Shared {
    // SAFETY: as the caller guarantees; the registry keeps the userdata for as long as the state lives, and its memory
    // outlives its finalizer.
    unsafe { &*(ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)) as *const Shared) }
}

/// Goes on with the function that was replaced: upvalue 2.
///
/// # Safety
/// Called from within a function that has it, with its arguments on the stack.
unsafe fn original(state: *mut lua_State) -> c_int {
    // SAFETY: as the caller guarantees; Lua's own functions use nothing but their arguments.
    unsafe {
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(2)) {
            Some(function) => function(state),
            None => 0,
        }
    }
}

/// `next(t [, k])`.
unsafe extern "C-unwind" fn global_next(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots, and the upvalues that `install` gives it.
    unsafe {
        let shared = shared_upvalue(state);
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return original(state);
        }
        ffi::lua_settop(state, 2);
        let lazy = open(state, 1);
        let Some(view) = lazy.or_else(|| open_origin(state, shared, 1)) else { return original(state) };
        let mut ordinal = 0;
        let mut key_is_new = false;
        if ffi::lua_type(state, 2) != ffi::LUA_TNIL {
            match ordinal_at(state, view, 2) {
                Some(found) => ordinal = found + 1,
                None if lazy.is_some() => return ffi::luaL_error(state, c"invalid key to 'next'".as_ptr()),
                None => key_is_new = true,
            }
        }
        ffi::lua_pushvalue(state, 2);
        if key_is_new {
            return next_new(state, view);
        }
        let pushed = step(state, shared, &mut ordinal);
        if pushed == 2 || lazy.is_some() {
            return pushed;
        }
        ffi::lua_pushnil(state);
        next_new(state, view)
    }
}

/// Pushes the key after the one on the top of the stack and its value, of those that the plain table at 1 was given
/// since it was lazy.
///
/// # Safety
/// As a C function of Lua, with the table at 1.
unsafe fn next_new(state: *mut lua_State, origin: View) -> c_int {
    // SAFETY: as the caller guarantees.
    unsafe {
        while ffi::lua_next(state, 1) != 0 {
            let key = ffi::lua_absindex(state, -2);
            if ordinal_at(state, origin, key).is_none() {
                return 2;
            }
            ffi::lua_pop(state, 1);
        }
        ffi::lua_pushnil(state);
        1
    }
}

/// `getmetatable(v)`: a lazy table has none that shows.
unsafe extern "C-unwind" fn global_getmetatable(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        if open(state, 1).is_none() {
            return original(state);
        }
        ffi::lua_pushnil(state);
    }
    1
}

/// `setmetatable(t, mt)`: a lazy table becomes plain first.
unsafe extern "C-unwind" fn global_setmetatable(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        if open(state, 1).is_some() {
            ffi::lua_pop(state, 1);
            if ffi::lua_type(state, 2) == ffi::LUA_TNIL {
                ffi::lua_settop(state, 1);
                return 1;
            }
            if ffi::lua_type(state, 2) == ffi::LUA_TTABLE {
                make_plain(state, 1);
            }
        }
        original(state)
    }
}

/// `rawget(t, k)`.
unsafe extern "C-unwind" fn global_rawget(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        if ffi::lua_gettop(state) >= 2
            && let Some(view) = open(state, 1)
        {
            let handle = ffi::lua_gettop(state);
            look_up(state, view, handle);
            return 1;
        }
        original(state)
    }
}

/// `rawset(t, k, v)`.
unsafe extern "C-unwind" fn global_rawset(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        make_plain(state, 1);
        original(state)
    }
}

/// `rawlen(v)`.
unsafe extern "C-unwind" fn global_rawlen(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots.
    unsafe {
        if open(state, 1).is_some() {
            return meta_len(state);
        }
        original(state)
    }
}

/// The iterator over a batch's records. Upvalues: the handle, the index of the next record.
unsafe extern "C-unwind" fn records_step(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with twenty slots, and these upvalues.
    unsafe {
        let counter = ffi::lua_upvalueindex(2);
        let index = ffi::lua_tointeger(state, counter).max(0);
        ffi::lua_pushinteger(state, index + 1);
        ffi::lua_replace(state, counter);
        ffi::lua_settop(state, 0);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        push_record(state, 1, index as usize);
    }
    1
}

/// Pushes an iterator function over the records of the handle on the top of the stack, which it takes.
///
/// # Safety
/// In a protected call.
pub(super) unsafe fn push_records_iterator(state: *mut lua_State) {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_pushinteger(state, 0);
        ffi::lua_pushcclosure(state, records_step, 2);
    }
}

/// `__gc` of a handle.
unsafe extern "C-unwind" fn collect_handle(state: *mut lua_State) -> c_int {
    // SAFETY: only handles have this metatable. The content is emptied, not dropped: a finalizer of a script may still
    // reach the handle, and finds no text.
    unsafe {
        let handle = ffi::lua_touserdata(state, 1) as *mut Handle;
        if !handle.is_null() && (*handle).magic == HANDLE_MAGIC {
            let shared = &*(*handle).shared;
            let content = ((*handle).batch.take(), (*handle).charge.take());
            let _ = catch_unwind(AssertUnwindSafe(|| {
                shared.memo.borrow_mut().forget(handle.addr());
                drop(content);
            }));
        }
    }
    0
}

/// `__gc` of the shared state.
unsafe extern "C-unwind" fn collect_shared(state: *mut lua_State) -> c_int {
    // SAFETY: only the shared state has this metatable. It is left empty but valid.
    unsafe {
        let shared = ffi::lua_touserdata(state, 1) as *const Shared;
        if !shared.is_null() && (*shared).magic == SHARED_MAGIC {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                drop((*shared).memo.take());
                drop((*shared).scratch.take());
            }));
        }
    }
    0
}

/// Creates the metatables and replaces the globals, unless that was done before.
///
/// # Safety
/// In a protected call of a state that has its basic library.
pub(super) unsafe fn install(state: *mut lua_State) {
    // SAFETY: as the caller guarantees; the userdata is filled before anything can see it.
    unsafe {
        let registry = ffi::LUA_REGISTRYINDEX;
        if ffi::lua_rawgetp(state, registry, &raw const SHARED as *const c_void) == ffi::LUA_TUSERDATA {
            return ffi::lua_settop(state, 0);
        }
        ffi::lua_settop(state, 0);
        let shared = ffi::lua_newuserdatauv(state, size_of::<Shared>(), 0) as *mut Shared;
        shared.write(Shared {
            magic: SHARED_MAGIC,
            memo: RefCell::default(),
            scratch: RefCell::default(),
            written: Cell::new(false),
        });
        ffi::lua_createtable(state, 0, 1);
        set_function(state, c"__gc", collect_shared);
        ffi::lua_setmetatable(state, 1);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_rawsetp(state, registry, &raw const SHARED as *const c_void);

        ffi::lua_createtable(state, 0, 0);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushstring(state, c"k".as_ptr());
        ffi::lua_setfield(state, -2, c"__mode".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_rawsetp(state, registry, &raw const ORIGINS as *const c_void);

        let globals: [(&std::ffi::CStr, ffi::lua_CFunction); 6] = [
            (c"next", global_next),
            (c"getmetatable", global_getmetatable),
            (c"setmetatable", global_setmetatable),
            (c"rawget", global_rawget),
            (c"rawset", global_rawset),
            (c"rawlen", global_rawlen),
        ];
        for (name, function) in globals {
            ffi::lua_pushvalue(state, 1);
            ffi::lua_getglobal(state, name.as_ptr());
            if ffi::lua_iscfunction(state, -1) != 0 {
                ffi::lua_pushcclosure(state, function, 2);
                ffi::lua_setglobal(state, name.as_ptr());
            }
            ffi::lua_settop(state, 1);
        }
        ffi::lua_settop(state, 0);
    }
}

/// Sets a field of the table on the top of the stack.
///
/// # Safety
/// In a protected call.
unsafe fn set_function(state: *mut lua_State, name: &std::ffi::CStr, function: ffi::lua_CFunction) {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_pushcfunction(state, function);
        ffi::lua_setfield(state, -2, name.as_ptr());
    }
}

/// Pushes a handle that holds no batch yet; see [`fill_handle`].
///
/// # Safety
/// In a protected call of a state where [`install`] was run.
pub(super) unsafe fn push_handle(state: *mut lua_State) {
    // SAFETY: as the caller guarantees; the userdata is filled before anything can see it.
    unsafe {
        let registry = ffi::LUA_REGISTRYINDEX;
        let shared = push_shared(state);
        ffi::lua_pop(state, 1);
        let handle = ffi::lua_newuserdatauv(state, size_of::<Handle>(), 1) as *mut Handle;
        let written = Cell::new(false);
        handle.write(Handle { magic: HANDLE_MAGIC, shared, batch: None, charge: None, written });
        push_metatable(state);
        ffi::lua_setiuservalue(state, -2, 1);
        if ffi::lua_rawgetp(state, registry, &raw const HANDLE_METATABLE as *const c_void) != ffi::LUA_TTABLE
        {
            ffi::lua_pop(state, 1);
            ffi::lua_createtable(state, 0, 2);
            set_function(state, c"__gc", collect_handle);
            ffi::lua_pushboolean(state, 0);
            ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawsetp(state, registry, &raw const HANDLE_METATABLE as *const c_void);
        }
        ffi::lua_setmetatable(state, -2);
    }
}

static HANDLE_METATABLE: u8 = 0;

/// Pushes a metatable for the lazy tables of the handle on the top of the stack. Through it they hold on to their handle,
/// so that a table needs no room for that, and `__index` need not look for it.
///
/// # Safety
/// As [`push_handle`].
unsafe fn push_metatable(state: *mut lua_State) {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_createtable(state, 0, 5);
        ffi::lua_pushvalue(state, -2);
        ffi::lua_pushcclosure(state, meta_index, 1);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        set_function(state, c"__newindex", meta_newindex);
        set_function(state, c"__len", meta_len);
        set_function(state, c"__pairs", meta_pairs);
        ffi::lua_pushvalue(state, -2);
        ffi::lua_rawsetp(state, -2, HANDLE);
    }
}

/// Pushes the shared state.
///
/// # Safety
/// As [`push_handle`].
pub(super) unsafe fn push_shared(state: *mut lua_State) -> *const Shared {
    // SAFETY: as the caller guarantees.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, &raw const SHARED as *const c_void);
        ffi::lua_touserdata(state, -1) as *const Shared
    }
}

/// Puts a batch into a handle.
///
/// # Safety
/// `content` is the address of a handle that is alive, made by [`push_handle`].
pub(super) unsafe fn fill_handle(content: *const c_void, batch: Arc<Batch>, charge: Charge) {
    // SAFETY: as the caller guarantees; no view of the handle exists yet.
    unsafe {
        let handle = content.cast_mut().cast::<Handle>();
        (*handle).batch = Some(batch);
        (*handle).charge = Some(charge);
    }
}

/// Replaces the lazy table at 1 by key and value of its next member, and returns whether there was one. At the end it
/// is replaced by two nils.
///
/// # Safety
/// In a protected call with nothing else on the stack.
pub(super) unsafe fn push_pair(state: *mut lua_State, ordinal: &mut usize) -> bool {
    // SAFETY: as the caller guarantees; the shared state is that of the state.
    unsafe {
        let shared = &*push_shared(state);
        ffi::lua_pop(state, 1);
        let more = step(state, shared, ordinal) == 2;
        if !more {
            ffi::lua_pushnil(state);
        }
        ffi::lua_copy(state, -2, 1);
        ffi::lua_copy(state, -1, 2);
        ffi::lua_settop(state, 2);
        more
    }
}
