//! Records shaped like KumoMTA's, from a seed: for demonstrations, benchmarks and tests.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;

const DOMAINS: [&str; 10] = [
    "gmail.com",
    "yahoo.com",
    "outlook.com",
    "hotmail.com",
    "icloud.com",
    "aol.com",
    "example.net",
    "web.de",
    "gmx.de",
    "orange.fr",
];
/// Values of `egress_pool`; each is as likely as the others, whatever the type of the record.
pub const POOLS: [&str; 5] = ["customer-a", "customer-b", "customer-c", "pool0", "shared"];
const CLASSES: [&str; 5] = ["Uncategorized", "InvalidRecipient", "QuotaIssues", "SpamBlock", "PolicyRelated"];
/// As JSON text.
const NOTES: [&str; 6] =
    ["Grüße", "你好", "📧 news", "plain", r#"naïve \"quoted\" \\ slash"#, r"tab\tnew\nline"];
/// Types of records and how many of 1,000 are of each.
const TYPES: [(&str, u32); 14] = [
    ("Reception", 430),
    ("Delivery", 400),
    ("TransientFailure", 85),
    ("Bounce", 45),
    ("Feedback", 10),
    ("Rejection", 6),
    ("OOB", 5),
    ("Expiration", 5),
    ("Delayed", 5),
    ("AdminBounce", 4),
    ("XferOut", 2),
    ("XferIn", 1),
    ("AdminRebind", 1),
    ("DeferredInjectionRebind", 1),
];
/// The time of the first record, in seconds since 1970.
const EPOCH: u64 = 1_793_000_000;

/// Makes records without end. The same seed makes the same ones.
#[derive(Debug, Clone)]
pub struct Sample {
    random: Rng,
    made: u64,
}

impl Sample {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), made: 0 }
    }

    /// One record, without a line break.
    pub fn next_record(&mut self) -> String {
        let mut record = String::with_capacity(1400);
        self.append_record(&mut record);
        record
    }

    /// Appends one record, without a line break.
    pub fn append_record(&mut self, out: &mut String) {
        let at = EPOCH + self.made / 50;
        self.made += 1;
        let kind = self.kind();
        // Writing to a string cannot fail.
        let _ = self.write_record(out, kind, at);
    }

    fn kind(&mut self) -> &'static str {
        let mut left = self.random.u32(0..TYPES.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in TYPES {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        TYPES[0].0
    }

    fn write_record(&mut self, out: &mut String, kind: &str, at: u64) -> std::fmt::Result {
        let random = &mut self.random;
        let domain = pick(random, &DOMAINS);
        let pool = pick(random, &POOLS);
        let (tenant, campaign) = (random.u32(0..40), random.u32(0..200));
        let incoming = matches!(kind, "Reception" | "Rejection" | "Feedback" | "OOB");
        write!(out, r#"{{"type":"{kind}","id":"{:032x}","#, random.u128(..))?;
        let sender = random.u32(0..100_000_000);
        write!(out, r#""sender":"bounce+{sender}@mail.tenant{tenant}.example.com","#)?;
        write!(out, r#""recipient":"user{}@{domain}","#, random.u32(0..10_000_000))?;
        match kind {
            "Rejection" => out.push_str(r#""queue":"","site":"","#),
            _ => {
                write!(out, r#""queue":"campaign{campaign}:tenant{tenant}@{domain}","site":""#)?;
                if !incoming {
                    let source = random.u8(0..8);
                    write!(out, "{pool}-src{source}->(alt1|alt2|alt3|alt4)?.{domain}-smtp-in.l.{domain}.")?;
                }
                out.push_str("\",");
            }
        }
        write!(out, r#""size":{},"response":"#, random.u32(800..90_000))?;
        write_response(out, random, kind, domain)?;
        let (mx, c, d) = (random.u8(0..9), random.u8(..), random.u8(..));
        write!(out, r#","peer_address":{{"name":"mx{mx}.{domain}.","addr":"142.251.{c}.{d}"}},"#)?;
        write!(out, r#""timestamp":{at},"event_time":"{}","#, Stamp(at, random.u32(0..1_000_000_000)))?;
        let created = at - random.u64(0..300);
        write!(out, r#""created":{created},"created_time":"{}","#, Stamp(created, 1))?;
        let failed = matches!(kind, "TransientFailure" | "Bounce" | "Expiration" | "Delayed");
        let attempts = if failed { random.u16(1..12) } else { 0 };
        let class = if matches!(kind, "Bounce" | "TransientFailure" | "OOB") {
            pick(random, &CLASSES)
        } else {
            CLASSES[0]
        };
        write!(out, r#""num_attempts":{attempts},"bounce_classification":"{class}","#)?;
        write!(out, r#""egress_pool":"{pool}","egress_source":"{pool}-src{}","#, random.u8(0..8))?;
        let (c, d, port) = (random.u8(..), random.u8(..), random.u16(1024..));
        write!(out, r#""source_address":{{"address":"10.0.{c}.{d}:{port}"}},"feedback_report":"#)?;
        match kind {
            "Feedback" => write_feedback(out, random, tenant, domain)?,
            _ => out.push_str("null"),
        }
        let note = pick(random, &NOTES);
        write!(
            out,
            r#","meta":{{"tenant":"tenant{tenant}","campaign":"campaign{campaign}","note":"{note}"}},"#
        )?;
        let (note, number) = (pick(random, &NOTES), random.u32(0..1000));
        write!(out, r#""headers":{{"Subject":"{note} {number}","#)?;
        write!(out, r#""Message-ID":"<{:x}@mail.tenant{tenant}.example.com>"}},"#, random.u128(..) >> 32)?;
        let delivery = if incoming { "null" } else { r#""ESMTP""# };
        let reception = if random.f32() < 0.7 { "ESMTP" } else { "HTTP" };
        write!(out, r#""delivery_protocol":{delivery},"reception_protocol":"{reception}","#)?;
        out.push_str(r#""nodeid":"557f3ad4-2c8c-11ee-976e-782d7e12e173","#);
        if kind == "Delivery" {
            write!(out, r#""tls_cipher":"TLS_AES_256_GCM_SHA384","tls_protocol_version":"TLSv1.3","#)?;
            write!(out, r#""provider_name":"{domain}","#)?;
        }
        write!(out, r#""session_id":"{}"}}"#, Uuid(random.u128(..)))
    }
}

fn pick<'a>(random: &mut Rng, from: &[&'a str]) -> &'a str {
    from[random.usize(0..from.len())]
}

fn write_response(out: &mut String, random: &mut Rng, kind: &str, domain: &str) -> std::fmt::Result {
    let (code, class) = match kind {
        "Bounce" | "OOB" | "Rejection" => (550, 5),
        "AdminBounce" | "Expiration" => (551, 5),
        "TransientFailure" | "Delayed" => (451, 4),
        _ => (250, 2),
    };
    let enhanced = if class == 2 { (0, 0) } else { (7, 1) };
    write!(
        out,
        r#"{{"code":{code},"enhanced_code":{{"class":{class},"subject":{},"detail":{}}},"#,
        enhanced.0, enhanced.1
    )?;
    if class == 2 {
        write!(out, r#""content":"OK ids={:032x}","#, random.u128(..))?;
    } else {
        let (number, class) = (random.u32(0..1_000_000), pick(random, &CLASSES));
        write!(out, r#""content":"{domain} said: mailbox unavailable ({number}) "#)?;
        write!(out, r#"see https://support.{domain}/mail/?p={class}","#)?;
    }
    out.push_str(if kind == "Delivery" { r#""command":"."}"# } else { r#""command":null}"# });
    Ok(())
}

fn write_feedback(out: &mut String, random: &mut Rng, tenant: u32, domain: &str) -> std::fmt::Result {
    out.push_str(r#"{"feedback_type":"abuse","user_agent":"ua/1","version":"1","#);
    write!(
        out,
        r#""reporting_mta":{{"mta_type":"dns","name":"mx.{domain}"}},"source_ip":"10.0.0.{}","#,
        random.u8(..)
    )?;
    write!(out, r#""original_rcpto_to":["user{}@{domain}"],"#, random.u32(0..10_000_000))?;
    write!(out, r#""reported_domain":["tenant{tenant}.example.com"],"extensions":{{}},"#)?;
    out.push_str(r#""original_message":"From: <news@example.com>\r\nSubject: hi\r\n\r\nHello\r\n","supplemental_trace":null}"#);
    Ok(())
}

/// Seconds since 1970 and nanoseconds, as RFC 3339.
struct Stamp(u64, u32);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(at, nanos) = self;
        let (second, minute, hour) = (at % 60, at / 60 % 60, at / 3600 % 24);
        // A calendar is of no use here: days count from the epoch of the sample.
        let day = 1 + (at / 86_400 - EPOCH / 86_400 + 25) % 28;
        write!(f, "2026-11-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

struct Uuid(u128);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// Writes `records` records in `segments` sealed segments of one frame each, named and compressed as KumoMTA does it.
/// Returns their paths, in order.
///
/// # Errors
/// If the directory cannot be made or a segment not be written, or exists.
pub fn write_directory(
    directory: &Path,
    records: u64,
    segments: u64,
    seed: u64,
    level: i32,
) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut sample = Sample::new(seed);
    let per_segment = records.div_ceil(segments.max(1)).max(1);
    let mut left = records;
    let mut paths = Vec::new();
    let mut text = String::with_capacity(260 << 10);
    while left > 0 {
        let n = paths.len();
        let name = format!("20261101-{:02}{:02}{:02}.{n:09}", n / 3600, n / 60 % 60, n % 60);
        let path = directory.join(name);
        let mut encoder = zstd::stream::write::Encoder::new(File::create_new(&path)?, level)?;
        let count = left.min(per_segment);
        left -= count;
        for _ in 0..count {
            sample.append_record(&mut text);
            text.push('\n');
            if text.len() >= 256 << 10 {
                encoder.write_all(text.as_bytes())?;
                text.clear();
            }
        }
        encoder.write_all(text.as_bytes())?;
        text.clear();
        encoder.finish()?.set_permissions(Permissions::from_mode(0o444))?;
        paths.push(path);
    }
    Ok(paths)
}

/// A line that is legal, or at least happens, and has broken readers before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// What is special about it.
    pub name: &'static str,
    /// Its bytes, without a line break.
    pub line: Vec<u8>,
    /// What a reader must make of it.
    pub becomes: Becomes,
}

/// What a reader must make of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// A record, byte for byte.
    Record,
    /// A record, without the `\r` at its end.
    RecordWithoutReturn,
    /// Nothing: the line is blank.
    Blank,
    /// A defect.
    Defect,
}

/// One of each kind.
pub fn traps() -> Vec<Trap> {
    let trap = |name, line: &[u8], becomes| Trap { name, line: line.to_vec(), becomes };
    let long = |name, len: usize| {
        let line = format!(
            r#"{{"type":"Feedback","feedback_report":{{"original_message":"{}"}}}}"#,
            "x".repeat(len)
        );
        Trap { name, line: line.into_bytes(), becomes: Becomes::Record }
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    use Becomes::{Blank, Defect, Record, RecordWithoutReturn};
    vec![
        trap(
            "several recipients",
            br#"{"type":"Delivery","recipient":["a@example.com","b@example.com"]}"#,
            Record,
        ),
        trap("quotes and backslashes", br#"{"response":{"content":"5.1.1 \"no\" \\ such\/user"}}"#, Record),
        trap("not ASCII", r#"{"recipient":"grüße@例え.jp","note":"📧"}"#.as_bytes(), Record),
        trap("escaped NUL", br#"{"response":{"content":"a\u0000b"}}"#, Record),
        trap("surrogate pair", br#"{"note":"\ud83d\udce7"}"#, Record),
        trap("no fraction", br#"{"event_time":"2026-11-01T00:00:00Z"}"#, Record),
        trap("fraction of three", br#"{"event_time":"2026-11-01T00:00:00.123Z"}"#, Record),
        trap("large integers", br#"{"meta":{"n":9007199254740993,"m":-9223372036854775808}}"#, Record),
        trap("deep meta", br#"{"meta":{"a":{"b":{"c":[{"d":[1,[2,[3]]]}]}}}}"#, Record),
        trap("null member", br#"{"egress_pool":null,"meta":{}}"#, Record),
        trap("duplicate keys", br#"{"egress_pool":"first","egress_pool":"customer-a"}"#, Record),
        trap("spaces", br#"  { "egress_pool" : "customer-a" }  "#, Record),
        trap("no object", b"42", Record),
        trap("CRLF", b"{\"a\":1}\r", RecordWithoutReturn),
        trap("empty", b"", Blank),
        trap("nothing but spaces", b" \t ", Blank),
        trap("nothing but a return", b"\r", Blank),
        trap("invalid UTF-8", b"{\"note\":\"\xff\xfe caf\xe9\"}", Record),
        trap("null", b"null", Defect),
        trap("a header", b"type,id,sender", Defect),
        trap("NaN", br#"{"a":NaN}"#, Defect),
        trap("cut", br#"{"type":"Delivery","id":"8f"#, Defect),
        trap("two values", br#"{"a":1}{"b":2}"#, Defect),
        trap("valid up to the looked-up key", br#"{"egress_pool":"customer-a", nope"#, Defect),
        trap("control character", b"{\"a\":\"\x01\"}", Defect),
        trap("as deep as allowed", nested(128).as_bytes(), Record),
        trap("too deep", nested(129).as_bytes(), Defect),
        long("200 KiB", 200 << 10),
        long("1.5 MiB", 3 << 19),
    ]
}
