//! The same script on a lazy record and on a plain table made from the same JSON gives the same answers.
#![allow(clippy::unwrap_used)]
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

#[path = "../../host/lua/tests/common/mod.rs"]
pub mod common;

use common::lua_with_batch;

/// Keys that the operations use, and so the records should.
pub const KEYS: [&str; 5] = ["a", "b", "c", "d\u{e9}\"", "e"];

/// What the operations below are made of. Tables are kept in `T`; `say` notes an answer.
pub const PRELUDE: &str = r#"
    T, written, answers = {r}, {}, {}
    function say(...) answers[#answers + 1] = table.concat({...}, ' ') end
    function scalar(v)
        if type(v) == 'table' then return 'table' end
        if type(v) == 'number' then return math.type(v) .. string.format(' %q', v) end
        return string.format('%q', v)
    end
    holes = false
    function dense(t)
        local count, last = 0, 0
        for k in pairs(t) do
            if math.type(k) ~= 'integer' then return false end
            count = count + 1
            last = math.max(last, k)
        end
        return count > 0 and last == count
    end
    function dump(v)
        if type(v) ~= 'table' then return scalar(v) end
        local parts, numbers = {}, false
        for k, x in pairs(v) do
            numbers = numbers or type(k) == 'number'
            parts[#parts + 1] = tostring(k) .. '=' .. dump(x)
        end
        if numbers and not dense(v) then holes = true end
        table.sort(parts)
        return '{' .. table.concat(parts, ';') .. '}'
    end
    op = {}
    function op.get(t, k) say('get', scalar(t[k])) end
    function op.descend(t, k)
        local child = t[k]
        if type(child) == 'table' then T[#T + 1] = child say('same', tostring(t[k] == child)) end
    end
    function op.set(t, k, v)
        -- A table with both kinds of keys is an array or an object depending on its history.
        if type(k) == 'number' and not (dense(t) and k <= #t + 1) then return end
        if type(k) == 'string' and dense(t) then return end
        t[k] = v
        written[t] = true
    end
    function op.delete(t, k) t[k] = nil written[t] = true end
    function op.pairs(t)
        local parts = {}
        for k, v in pairs(t) do parts[#parts + 1] = tostring(k) .. '=' .. scalar(v) end
        table.sort(parts)
        say('pairs', table.concat(parts, ';'))
    end
    function op.next(t)
        local parts = {}
        local k, v = next(t)
        while k ~= nil do
            parts[#parts + 1] = tostring(k) .. '=' .. scalar(v)
            k, v = next(t, k)
        end
        table.sort(parts)
        say('next', table.concat(parts, ';'))
    end
    function op.sweep(t, k)
        local count = 0
        for key in pairs(t) do count = count + 1 if key ~= k then t[key] = nil end end
        written[t] = true
        say('sweep', count)
    end
    function op.sweep_next(t)
        local count, k = 0, next(t)
        while k ~= nil do count = count + 1 t[k] = nil k = next(t, k) end
        written[t] = true
        say('sweep', count, tostring(next(t)))
    end
    function op.len(t) if dense(t) or not written[t] then say('len', #t, rawlen(t)) end end
    function op.ipairs(t) for i, v in ipairs(t) do say('ipairs', i, scalar(v)) end end
    function op.insert(t, _, v) if dense(t) then table.insert(t, v) written[t] = true end end
    function op.push_front(t, _, v) if dense(t) then table.insert(t, 1, v) written[t] = true end end
    function op.remove(t) if dense(t) then say('remove', scalar(table.remove(t, 1))) written[t] = true end end
    function op.sort(t) if dense(t) then say('sort', tostring(pcall(table.sort, t))) written[t] = true end end
    function op.concat(t)
        if not dense(t) then return end
        local ok, text = pcall(table.concat, t, ',')
        say('concat', tostring(ok), ok and text or '')
    end
    function op.unpack(t)
        local n = (dense(t) or not written[t]) and #t or 3
        local all = {table.unpack(t, 1, n)}
        for i = 1, n do say('unpack', scalar(all[i])) end
    end
    function op.encode(t)
        holes = false
        local text = dump(t)
        say('dump', text)
        if not holes then say('encode', dump(serde.json_parse(encode(t))), tostring(dump(serde.json_parse(encode(t))) == text)) end
        if not holes then say('pretty', dump(serde.json_parse(serde.json_encode_pretty(t)))) end
    end
    function op.raw(t, k, v)
        say('raw', scalar(rawget(t, k)), tostring(getmetatable(t)), tostring(rawequal(t, T[1])))
    end
    function op.meta(t)
        setmetatable(t, {__index = function(_, k) return 'meta ' .. tostring(k) end})
        say('meta', scalar(t.nowhere), scalar(t.a))
        setmetatable(t, nil)
        written[t] = true
    end
    function op.gc() collectgarbage() end
"#;

/// What may be done; some more often than others.
const NAMES: [&str; 24] = [
    "get",
    "get",
    "descend",
    "descend",
    "descend",
    "set",
    "set",
    "delete",
    "pairs",
    "next",
    "sweep",
    "sweep_next",
    "len",
    "ipairs",
    "insert",
    "push_front",
    "remove",
    "sort",
    "concat",
    "unpack",
    "encode",
    "raw",
    "meta",
    "gc",
];

const VALUES: [&str; 7] = ["1", "2.5", "'x'", "true", "{}", "{a = 1}", "{1, 2}"];

/// One step of a script, as four bytes: what is done, to which table, with which key, and with which value.
#[derive(Debug, Clone, Copy)]
pub struct Operation(pub [u8; 4]);

impl Operation {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        NAMES[usize::from(self.0[0]) % NAMES.len()]
    }

    /// As a line of Lua.
    pub fn line(&self) -> String {
        let [_, table, key, value] = self.0.map(usize::from);
        let key = match key % (KEYS.len() + 6) {
            n @ ..KEYS_LEN => format!("'{}'", KEYS[n]),
            KEYS_LEN => "1.0".to_owned(),
            n => (n - KEYS_LEN).to_string(),
        };
        format!("op.{}(T[{table} % #T + 1], {key}, {})", self.name(), VALUES[value % VALUES.len()])
    }
}

const KEYS_LEN: usize = KEYS.len();

/// Takes an input apart: its first line is the record, the rest the operations. `None` if it is none of that kind.
pub fn split(input: &[u8]) -> Option<(&str, Vec<Operation>)> {
    let at = input.iter().position(|b| *b == b'\n')?;
    let record = std::str::from_utf8(&input[..at]).ok()?;
    let (operations, _) = input[at + 1..].as_chunks::<4>();
    let record = record.trim_matches([' ', '\t', '\r']);
    (record.starts_with(['{', '['])
        && operations.len() <= 40
        && serde_json::from_str::<serde_json::Value>(record).is_ok())
    .then(|| (record, operations.iter().copied().map(Operation).collect()))
}

/// Runs the operations on both.
///
/// # Panics
/// If an answer differs.
pub fn check(json: &str, operations: &[Operation]) {
    let script: Vec<_> = operations.iter().map(Operation::line).collect();
    let script = script.join("\n");
    let (lazy, plain) = answers(json, &script);
    assert_eq!(lazy, plain, "{json}\n{script}");
}

/// The answers that the script gives when `r` is lazy, and when it is plain.
fn answers(json: &str, script: &str) -> (Vec<String>, Vec<String>) {
    let run = |make: &str| -> Vec<String> {
        let lua = lua_with_batch(&[json]);
        lua.globals().set("text", json).unwrap();
        let all =
            format!("{make}\n{PRELUDE}\n{script}\nfor _, t in ipairs(T) do op.encode(t) end return answers");
        lua.load(all).set_name("=script").eval().unwrap_or_else(|e| panic!("{e}\n{json}\n{script}"))
    };
    (run("records = nil"), run("records = nil r = serde.json_parse(text)"))
}
