//! How fast a body is searched: for references on its way to the upstream, and for the values
//! that were put into its request on the way back. GiB per second and core where nothing is
//! found, where a match is rare, and with more values than a request may hold. Beside it what
//! a search for one fixed string costs (`memmem`), and what only looking at the bytes does.
//! Last, what it costs to read a message with a body, before anything is searched.
//!
//!     cargo bench --profile fast --bench scan

use std::{
    hint::black_box,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, ProcessingRequest, processing_request::Request,
};
use prost::Message;
use vaultmux_mesh::{
    ext_proc::redact::{Needles, NeedlesBuilder, Redactor},
    injection::{Encoding, Finder, Progress, Resolution, Scanner},
    secret::SecretValue,
};

const BODY: usize = 8 << 20;
/// What Envoy sends at once.
const CHUNK: usize = 64 << 10;
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 7;
/// What one scanner looks through: as many references as it replaces.
const TEXT: usize = 32 * CHUNK;
const REFERENCE: &str = "{{secret://aws-prod/shared/stripe#key}}";

/// A message as `prost` reads it where bodies need not be copied.
#[derive(Clone, PartialEq, prost::Message)]
struct Shared {
    #[prost(message, optional, tag = "4")]
    request_body: Option<SharedBody>,
}

/// Its body.
#[derive(Clone, PartialEq, prost::Message)]
struct SharedBody {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
    #[prost(bool, tag = "2")]
    end_of_stream: bool,
}

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    print(&format!("load average before: {}\n", load.trim()));
    references();
    let one = needles(1);
    let rows = [
        ("1 value, JSON, no match", &one, json(BODY, None)),
        ("1 value, random bytes, no match", &one, random(BODY)),
        ("1 value, JSON, a match every 64 KiB", &one, json(BODY, Some(value(0)))),
        ("10 values, JSON, no match", &needles(10), json(BODY, None)),
        ("100 values, JSON, no match", &needles(100), json(BODY, None)),
        ("100 values, JSON, a match every 64 KiB", &needles(100), json(BODY, Some(value(7)))),
    ];
    print(&format!("{:<42} {:>8} {:>9}", "body of 8 MiB in chunks of 64 KiB", "GiB/s", "replaced"));
    for (name, needles, body) in rows {
        let (speed, replaced) = measure(|| redact(needles, &body));
        print(&format!("{name:<42} {speed:>8.2} {replaced:>9}"));
    }
    let body = json(BODY, None);
    let (speed, _) = measure(|| memmem(value(0).as_bytes(), &body));
    print(&format!("{:<42} {speed:>8.2}", "memmem for 1 value, no match"));
    let (speed, _) = measure(|| body.iter().map(|byte| usize::from(*byte)).sum());
    print(&format!("{:<42} {speed:>8.2}", "adding up all bytes"));
    let (built, _) = (Instant::now(), black_box(needles(1)));
    print(&format!("building 1 value's needles takes {:?}", built.elapsed()));
    messages();
}

/// Bodies of requests, in which references are looked for.
fn references() {
    let title = format!("a request's body of 8 MiB, chunks of {} KiB", CHUNK >> 10);
    print(&format!("{title:<42} {:>8} {:>9}", "GiB/s", "replaced"));
    let none: Arc<[String]> = Arc::from([]);
    let aliases = (0..10).map(|number| format!("sk_alias_{number:016x}")).collect();
    // A text of its own for each scanner, which counts strings in it.
    let json =
        |with: Option<&str>| Bytes::from(json(TEXT, with.map(str::to_owned)).repeat(BODY / TEXT));
    let rare = || json(Some(REFERENCE));
    let rows = [
        ("text, JSON, no match", Encoding::Plain, &none, json(None)),
        ("text, random bytes, no match", Encoding::Plain, &none, random(BODY)),
        ("text, a reference every 64 KiB", Encoding::Plain, &none, rare()),
        ("JSON, no match", Encoding::Json, &none, json(None)),
        ("JSON, a reference every 64 KiB", Encoding::Json, &none, rare()),
        ("JSON, 10 aliases, no match", Encoding::Json, &aliases, json(None)),
        ("form, no match", Encoding::Percent, &none, form(BODY)),
    ];
    for (name, encoding, aliases, body) in rows {
        let finder = Arc::new(Finder::new(encoding, aliases));
        let (speed, replaced) = measure(|| substitute(&finder, &body));
        print(&format!("{name:<42} {speed:>8.2} {replaced:>9}"));
    }
    for (name, body) in [
        ("memmem for {{secret://, JSON, no match", json(None)),
        ("memmem for {{secret://, 1 in 64 KiB", rare()),
    ] {
        let (speed, _) = measure(|| memmem(b"{{secret://", &body));
        print(&format!("{name:<42} {speed:>8.2}"));
    }
    print("");
}

fn substitute(finder: &Arc<Finder>, body: &Bytes) -> usize {
    let (mut out, mut replaced) = (Vec::new(), 0);
    let value = Resolution::Value(Bytes::from_static(b"sk_live_4eC39HqLyjWDarjtT1zdp7dc"));
    for text in (0..body.len()).step_by(TEXT) {
        let text = body.slice(text..text + TEXT);
        let mut scanner = Scanner::new(Arc::clone(finder), true);
        for at in (0..TEXT).step_by(CHUNK) {
            let chunk = text.slice(at..at + CHUNK);
            let mut progress = scanner.push(chunk, &mut out);
            while let Progress::Needs(needs) = progress {
                let needs = needs.into_iter().map(|text| (text, value.clone()));
                progress = scanner.resolved(needs, &mut out);
            }
            assert_eq!(progress, Progress::Idle, "no more than it replaces");
            black_box(&out);
            out.clear();
        }
        scanner.finish(&mut out);
        out.clear();
        replaced += scanner.replaced();
    }
    replaced
}

/// One fixed string, in the same chunks; matches over their borders are not found.
fn memmem(needle: &[u8], body: &Bytes) -> usize {
    let finder = memchr::memmem::Finder::new(needle);
    body.chunks(CHUNK).map(|chunk| finder.find_iter(black_box(chunk)).count()).sum()
}

/// What reading a message costs: its body is copied by one, and shared by the other.
fn messages() {
    let body = json(CHUNK, None).to_vec();
    let body = HttpBody { body, end_of_stream: true, ..HttpBody::default() };
    let message = ProcessingRequest {
        request: Some(Request::RequestBody(body)),
        ..ProcessingRequest::default()
    };
    let message = Bytes::from(message.encode_to_vec());
    let times = BODY / CHUNK;
    let copied = || {
        let read = || ProcessingRequest::decode(black_box(message.clone())).expect("valid");
        (0..times).for_each(|_| drop(black_box(read())));
        0
    };
    let shared = || {
        let read = || Shared::decode(black_box(message.clone())).expect("valid");
        (0..times).for_each(|_| drop(black_box(read())));
        0
    };
    print("\nreading a message with a body of 64 KiB, microseconds");
    let microseconds = |speed: f64| CHUNK as f64 / f64::from(1 << 30) / speed * 1e6;
    print(&format!("{:<42} {:>8.2}", "into its own bytes", microseconds(measure(copied).0)));
    print(&format!("{:<42} {:>8.2}", "sharing those that came", microseconds(measure(shared).0)));
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

/// The time that this thread has spent on a core: others may want the machine too.
fn cpu() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = spent.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// The median of some rounds.
fn measure(mut run: impl FnMut() -> usize) -> (f64, usize) {
    let mut found = black_box(run());
    let mut speeds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, before, mut runs) = (Instant::now(), cpu(), 0);
            while start.elapsed() < ROUND {
                found = black_box(run());
                runs += 1;
            }
            (runs * BODY) as f64 / f64::from(1 << 30) / (cpu() - before).as_secs_f64()
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    (speeds[ROUNDS / 2], found)
}

fn redact(needles: &Arc<Needles>, body: &Bytes) -> usize {
    let mut redactor = Redactor::new(Arc::clone(needles));
    let mut out = Vec::new();
    for at in (0..body.len()).step_by(CHUNK) {
        redactor.push(body.slice(at..body.len().min(at + CHUNK)), &mut out);
        black_box(&out);
        out.clear();
    }
    redactor.finish(&mut out);
    black_box(&out);
    redactor.redacted()
}

/// Values as stores hold them, all unlike.
fn value(number: u32) -> String {
    format!("sk_live_{:08x}{:016x}", number.wrapping_mul(2_654_435_761), u64::from(number) << 20)
}

fn needles(values: u32) -> Arc<Needles> {
    let mut builder = NeedlesBuilder::default();
    for number in 0..values {
        let replacement = format!("{{{{secret://aws-prod/shared/key-{number}}}}}");
        builder.add_as(&SecretValue::new(value(number)), &replacement);
    }
    Arc::new(builder.build().expect("long enough"))
}

fn json(length: usize, with: Option<String>) -> Bytes {
    let mut text = String::with_capacity(length + 200);
    let mut number = 0_u64;
    let mut due = CHUNK;
    while text.len() < length {
        number += 1;
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text += &format!(
            "{{\"id\":\"ch_{hash:016x}\",\"amount\":{},\"currency\":\"eur\",\"paid\":true,\
             \"description\":\"Order {number} of a customer\"}},\n",
            hash % 100_000,
        );
        if let Some(value) = &with
            && text.len() > due
        {
            due += CHUNK;
            text += &format!("{{\"authorization\":\"Bearer {value}\"}},\n");
        }
    }
    text.truncate(length);
    text.into()
}

fn form(length: usize) -> Bytes {
    let mut text = String::with_capacity(length + 200);
    let mut number = 0_u64;
    while text.len() < length {
        number += 1;
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text += &format!("id=ch_{hash:016x}&note=Order%20{number}%20of%20a%20customer&paid=true&");
    }
    text.truncate(length);
    text.into()
}

fn random(length: usize) -> Bytes {
    let mut state = 1_u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    next.take(length).collect::<Vec<_>>().into()
}
