//! The same script on a lazy record and on a plain table made from the same JSON gives the same answers.
#![allow(clippy::unwrap_used)]

mod common;

use common::{batch, lua_with_batch};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEYS: [&str; 5] = ["a", "b", "c", "d\u{e9}\"", "e"];

/// What the operations below are made of. Tables are kept in `T`; `say` notes an answer.
const PRELUDE: &str = r#"
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

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|n| json!(f64::from(n) / 4.0)),
        (-9i64..9).prop_map(Value::from),
        "[a-c\"\\\\\n\u{e9}\u{1f600}]{0,4}".prop_map(Value::from),
    ];
    let nested = leaf.prop_recursive(4, 60, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((-9i64..9).prop_map(Value::from), 0..12).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(&KEYS), inner), 0..8).prop_map(|members| {
                Value::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    });
    nested.prop_filter("a record of its own", |v| v.is_object() || v.is_array())
}

fn operation() -> impl Strategy<Value = String> {
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
    let key = prop_oneof![
        proptest::sample::select(&KEYS).prop_map(|k| format!("'{k}'")),
        (1..6u8).prop_map(|n| n.to_string()),
        Just("1.0".to_owned()),
    ];
    let value = proptest::sample::select(&["1", "2.5", "'x'", "true", "{}", "{a = 1}", "{1, 2}"][..]);
    (proptest::sample::select(&NAMES[..]), any::<u8>(), key, value)
        .prop_map(|(name, table, key, value)| format!("op.{name}(T[{table} % #T + 1], {key}, {value})"))
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200),
        ..ProptestConfig::default()
    })]

    #[test]
    fn lazy_and_plain_tables_answer_alike(
        tree in tree(),
        spaced in any::<bool>(),
        script in proptest::collection::vec(operation(), 1..40),
    ) {
        let json = if spaced { serde_json::to_string_pretty(&tree).unwrap().replace('\n', " ") } else { tree.to_string() };
        let (lazy, plain) = answers(&json, &script.join("\n"));
        prop_assert_eq!(lazy, plain, "{}\n{}", json, script.join("\n"));
    }

    #[test]
    fn an_unchanged_record_is_its_own_text(tree in tree(), script in proptest::collection::vec(operation(), 0..20)) {
        // Only what reads.
        let reads = ["get", "descend", "pairs", "next", "len", "ipairs", "concat", "unpack", "encode", "raw", "gc"];
        let script: Vec<_> =
            script.into_iter().filter(|line| reads.iter().any(|r| line.starts_with(&format!("op.{r}(")))).collect();
        let json = tree.to_string();
        let lua = lua_with_batch(&[&json]);
        let all = format!("{PRELUDE}\n{}\nreturn encode(r)", script.join("\n"));
        let text: String = lua.load(all).eval().unwrap();
        prop_assert_eq!(text, json);
    }
}

#[test]
fn batches_of_many_records() {
    let lines: Vec<String> = (0..3000).map(|n| format!("{{\"n\":{n},\"l\":[{n}]}}")).collect();
    let lua = lua_with_batch(&lines);
    lua.load("for i, r in ipairs(records) do assert(r.n == i - 1 and r.l[1] == r.n) end").exec().unwrap();
    let text: String = lua.load("return encode(records)").eval().unwrap();
    assert_eq!(text, format!("[{}]", lines.join(",")));
    assert_eq!(batch(&lines).len(), 3000);
}
