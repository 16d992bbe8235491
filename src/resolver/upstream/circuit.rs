//! Whether a store may be called at all: not while it is down, not while it asks
//! to be left alone.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a store counts as down.
const FAILURES: u32 = 5;
/// How long a store that is down is left alone; doubles with each probe that fails.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A store that is throttling without naming a time.
const THROTTLED: Duration = Duration::from_secs(1);
const LONGEST_THROTTLED: Duration = Duration::from_secs(60);

/// Calls that a store counts apart, by their rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resolver) enum Class {
    Read = 0,
    List = 1,
    Write = 2,
}

/// How a call ended, as far as the store's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered, whatever the answer.
    Alive,
    /// It was unreachable, failing or silent.
    Failing,
    /// It failed at something that could be the caller's doing.
    Unclear,
    /// It asked for fewer calls.
    Throttling(Option<Duration>),
}

/// Why a call is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The store is down; it is tried again after this.
    Down(Duration),
    /// The store asked to wait this long.
    Throttled(Duration),
}

/// The state of the way to one store.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    /// While the store is down: when it is tried again, and how long it rested.
    down: Option<(Instant, Duration)>,
    /// One call is trying whether the store is back.
    probing: bool,
    throttled: [Option<Instant>; 3],
}

// === impl Circuit ===

impl Circuit {
    /// Lets a call through, or says why not; tells whether it is the one that tries
    /// if the store is back. A call that was let through ends in [`Circuit::record`],
    /// or in [`Circuit::abandon`].
    pub(super) fn admit(&mut self, class: Class) -> Result<bool, Closed> {
        let now = Instant::now();
        if let Some(until) = self.throttled[class as usize] {
            if now < until {
                return Err(Closed::Throttled(until - now));
            }
            self.throttled[class as usize] = None;
        }
        if let Some((until, _)) = self.down {
            if now < until || self.probing {
                return Err(Closed::Down(until.saturating_duration_since(now)));
            }
            self.probing = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// What became of a call.
    pub(super) fn record(&mut self, class: Class, health: Health, probe: bool) {
        match health {
            Health::Alive => *self = Self { throttled: self.throttled, ..Self::default() },
            Health::Unclear => {}
            Health::Throttling(wait) => {
                let wait = wait.unwrap_or(THROTTLED).min(LONGEST_THROTTLED);
                let throttled = Some(Instant::now() + longer(wait));
                // It answers, so it is not down.
                *self = Self { throttled: self.throttled, ..Self::default() };
                self.throttled[class as usize] = throttled;
            }
            Health::Failing => {
                self.failures = self.failures.saturating_add(1);
                let rest = match self.down {
                    // Calls that were under way when it went down say nothing new.
                    Some(_) if !probe => return,
                    Some((_, rested)) => (rested * 2).min(LONGEST_REST),
                    None if self.failures < FAILURES => return,
                    None => FIRST_REST,
                };
                self.probing = false;
                self.down = Some((Instant::now() + longer(rest), rest));
            }
        }
    }

    /// A call that was given up before it told anything.
    pub(super) fn abandon(&mut self, probe: bool) {
        self.probing &= !probe;
    }

    /// The word for `/backends`.
    pub(super) fn state(&self) -> &'static str {
        let now = Instant::now();
        match self.down {
            Some(_) => "down",
            None if self.throttled.iter().flatten().any(|until| now < *until) => "throttled",
            None => "up",
        }
    }
}

/// Up to a tenth longer, so that replicas do not come back as one.
fn longer(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(circuit: &mut Circuit, times: u32) {
        for _ in 0..times {
            let probe = circuit.probing;
            circuit.record(Class::Read, Health::Failing, probe);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_keeps_failing_is_left_alone_and_probed_by_one() {
        let mut circuit = Circuit::default();
        fail(&mut circuit, FAILURES - 1);
        assert_eq!(circuit.admit(Class::Read), Ok(false));
        fail(&mut circuit, 1);
        assert!(matches!(circuit.admit(Class::Write), Err(Closed::Down(_))));
        advance(Duration::from_millis(1101)).await;
        assert_eq!(circuit.admit(Class::Read), Ok(true), "one probe");
        assert!(matches!(circuit.admit(Class::Read), Err(Closed::Down(_))), "one alone");
        fail(&mut circuit, 1);
        advance(Duration::from_millis(1101)).await;
        assert!(matches!(circuit.admit(Class::Read), Err(Closed::Down(_))), "rests twice as long");
        advance(Duration::from_millis(1101)).await;
        circuit.record(Class::Read, Health::Failing, false);
        circuit.abandon(false);
        assert_eq!(circuit.admit(Class::Read), Ok(true), "calls of before changed nothing");
        circuit.record(Class::Read, Health::Alive, true);
        assert_eq!(circuit.state(), "up");
        fail(&mut circuit, FAILURES - 1);
        assert_eq!(circuit.admit(Class::Read), Ok(false), "counts from nothing again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_lets_another_try() {
        let mut circuit = Circuit::default();
        fail(&mut circuit, FAILURES);
        advance(Duration::from_secs(2)).await;
        circuit.admit(Class::Read).expect("a probe");
        circuit.abandon(true);
        circuit.admit(Class::Read).expect("another probe");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttling_store_is_left_alone_for_as_long_as_it_asks() {
        let mut circuit = Circuit::default();
        circuit.record(Class::List, Health::Throttling(Some(Duration::from_secs(7))), false);
        assert!(matches!(circuit.admit(Class::List), Err(Closed::Throttled(_))));
        assert_eq!(circuit.admit(Class::Read), Ok(false), "reads have a rate of their own");
        assert_eq!(circuit.state(), "throttled");
        advance(Duration::from_millis(7701)).await;
        assert_eq!(circuit.admit(Class::List), Ok(false));
        assert_eq!(circuit.state(), "up");
    }
}
