//! How fast a body is searched for the values that were put into its request: GiB per
//! second and core where nothing is found, where a value is rare, and with more values
//! than a request may hold. Beside it what only looking at the bytes costs.
//!
//!     cargo bench --profile fast --bench scan

use std::{
    hint::black_box,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use vaultmux_mesh::{
    ext_proc::redact::{Needles, NeedlesBuilder, Redactor},
    secret::SecretValue,
};

const BODY: usize = 8 << 20;
/// What Envoy sends at once.
const CHUNK: usize = 64 << 10;
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 7;

fn main() {
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
    let (speed, _) = measure(|| body.iter().map(|byte| usize::from(*byte)).sum());
    print(&format!("{:<42} {speed:>8.2}", "adding up all bytes"));
    let (built, _) = (Instant::now(), black_box(needles(1)));
    print(&format!("building 1 value's needles takes {:?}", built.elapsed()));
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

fn random(length: usize) -> Bytes {
    let mut state = 1_u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    next.take(length).collect::<Vec<_>>().into()
}
