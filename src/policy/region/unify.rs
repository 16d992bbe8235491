//! For which callers two patterns of names have a name in common.
//!
//! A pattern is a text with two unknowns, the caller's namespace and service account. Both
//! patterns are read from the left at once; where an unknown meets a letter it either ends
//! or begins with that letter, and where it meets another unknown one of them begins with
//! the other. What is left unknown at the end may be anything. Values are at most 63 and 253
//! letters long, so that this ends.

use super::{Span, Whom};
use crate::policy::{
    rule::Shape,
    template::{Part, ValueOf},
};

/// More steps are not taken for one pair of patterns.
const MAX_STEPS: u32 = 200_000;
const MAX_NAMESPACE: usize = 63;
const MAX_ACCOUNT: usize = 253;

/// A letter, or something unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Sym {
    Letter(u8),
    Unknown(u16),
}

/// What is known of the callers for whom two patterns meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Bound {
    pub(in crate::policy) namespace: Vec<Sym>,
    pub(in crate::policy) account: Vec<Sym>,
}

#[derive(Clone)]
struct State {
    a: Vec<Sym>,
    b: Vec<Sym>,
    bound: Bound,
}

struct Search {
    a_open: bool,
    b_open: bool,
    next: u16,
    left: u32,
    found: Vec<Bound>,
    gave_up: bool,
}

/// For which of these callers both patterns have a name; none if that is too much work.
pub(in crate::policy) fn unify(whom: &Whom, a: &Shape, b: &Shape) -> Option<Vec<Bound>> {
    let bound = Bound::of(whom);
    let mut search = Search {
        a_open: !matches!(a, Shape::Exact(_)),
        b_open: !matches!(b, Shape::Exact(_)),
        next: 2,
        left: MAX_STEPS,
        found: Vec::new(),
        gave_up: false,
    };
    search.go(State { a: bound.fill(a), b: bound.fill(b), bound });
    let guards = |of: ValueOf| [a, b].into_iter().any(|shape| guarded(shape, of));
    let (namespace, account) = (guards(ValueOf::Namespace), guards(ValueOf::ServiceAccount));
    let holds = |bound: &Bound| {
        !(namespace && dashed(&bound.namespace) || account && dashed(&bound.account))
    };
    search.found.retain(holds);
    (!search.gave_up).then_some(search.found)
}

/// Whether its names depend on who asks.
pub(in crate::policy) fn has_placeholder(shape: &Shape) -> bool {
    let (Shape::Exact(template) | Shape::Prefix(template)) = shape else { return false };
    template.parts.iter().any(|part| matches!(part, Part::Value(_)))
}

fn guarded(shape: &Shape, of: ValueOf) -> bool {
    let (Shape::Exact(template) | Shape::Prefix(template)) = shape else { return false };
    let guards = |part: &Part| match part {
        Part::Value(placeholder) => placeholder.guarded && placeholder.source == of,
        Part::Literal(_) => false,
    };
    template.parts.iter().any(guards)
}

fn dashed(text: &[Sym]) -> bool {
    text.windows(2).any(|pair| *pair == [Sym::Letter(b'-'); 2])
}

// === impl Bound ===

impl Bound {
    /// What is known of these callers.
    pub(in crate::policy) fn of(whom: &Whom) -> Self {
        let letters = |text: &str| text.bytes().map(Sym::Letter).collect::<Vec<_>>();
        let namespace = match &whom.namespace {
            Span::Any => vec![Sym::Unknown(0)],
            Span::One(one) => letters(one),
            Span::Prefix(prefix) => {
                let mut text = letters(prefix);
                text.push(Sym::Unknown(0));
                text
            }
        };
        let account = whom.name.as_ref().map_or(vec![Sym::Unknown(1)], |name| letters(name));
        Self { namespace, account }
    }

    fn fill(&self, shape: &Shape) -> Vec<Sym> {
        let (Shape::Exact(template) | Shape::Prefix(template)) = shape else { return Vec::new() };
        let mut text = Vec::new();
        for part in &template.parts {
            match part {
                Part::Literal(literal) => text.extend(literal.bytes().map(Sym::Letter)),
                Part::Value(placeholder) => text.extend(match placeholder.source {
                    ValueOf::Namespace => &self.namespace,
                    ValueOf::ServiceAccount => &self.account,
                }),
            }
        }
        text
    }

    /// The callers, as far as they can be told by the start of a namespace.
    pub(in crate::policy) fn to_whom(&self) -> Whom {
        let known = |text: &[Sym]| {
            let letters = text.iter().map_while(|sym| match sym {
                Sym::Letter(letter) => Some(char::from(*letter)),
                Sym::Unknown(_) => None,
            });
            let letters: String = letters.collect();
            (letters.len() == text.len(), letters)
        };
        let namespace = match known(&self.namespace) {
            (true, all) => Span::One(all.into()),
            (false, start) if start.is_empty() => Span::Any,
            (false, start) => Span::Prefix(start.into()),
        };
        let (whole, name) = known(&self.account);
        Whom { namespace, name: whole.then(|| name.into()) }
    }

    /// Whether that is all that is known of them: namespace and account do not depend on one
    /// another.
    pub(in crate::policy) fn is_whole(&self) -> bool {
        let unknowns =
            |text: &[Sym]| text.iter().filter(|sym| matches!(sym, Sym::Unknown(_))).count();
        let last = |text: &[Sym]| {
            matches!((unknowns(text), text.last()), (0, _) | (1, Some(Sym::Unknown(_))))
        };
        let apart = !self
            .namespace
            .last()
            .is_some_and(|last| matches!(last, Sym::Unknown(_)) && self.account.contains(last));
        let account = unknowns(&self.account) == 0 || self.account.len() == 1;
        last(&self.namespace) && account && apart
    }

    /// Whether there can be such callers, as far as letters and lengths go.
    fn is_possible(&self) -> bool {
        let all = |text: &[Sym], dot: bool, most: usize| {
            let fits = |sym: &Sym| match sym {
                Sym::Letter(b'.') => dot,
                Sym::Letter(letter) => {
                    letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == b'-'
                }
                Sym::Unknown(_) => true,
            };
            let letters = text.iter().filter(|sym| matches!(sym, Sym::Letter(_))).count();
            !text.is_empty() && letters <= most && text.iter().all(fits)
        };
        all(&self.namespace, false, MAX_NAMESPACE) && all(&self.account, true, MAX_ACCOUNT)
    }
}

// === impl Search ===

impl Search {
    fn go(&mut self, mut state: State) {
        loop {
            if self.left == 0 {
                self.gave_up = true;
                return;
            }
            self.left -= 1;
            if !state.bound.is_possible() {
                return;
            }
            let same = state.a.iter().zip(&state.b).take_while(|(a, b)| a == b).count();
            state.a.drain(..same);
            state.b.drain(..same);
            match (state.a.first().copied(), state.b.first().copied()) {
                (None, None) => return self.found.push(state.bound),
                (None, Some(_)) if self.a_open => return self.found.push(state.bound),
                (Some(_), None) if self.b_open => return self.found.push(state.bound),
                // What is unknown may turn out to be nothing more.
                (None, Some(Sym::Unknown(unknown))) | (Some(Sym::Unknown(unknown)), None) => {
                    state.replace(unknown, &[]);
                }
                (None, Some(Sym::Letter(_)))
                | (Some(Sym::Letter(_)), None)
                | (Some(Sym::Letter(_)), Some(Sym::Letter(_))) => return,
                (Some(Sym::Unknown(unknown)), Some(letter @ Sym::Letter(_)))
                | (Some(letter @ Sym::Letter(_)), Some(Sym::Unknown(unknown))) => {
                    self.branch(&state, unknown, &[]);
                    let rest = self.unknown();
                    state.replace(unknown, &[letter, rest]);
                }
                (Some(a @ Sym::Unknown(one)), Some(b @ Sym::Unknown(other))) => {
                    self.branch(&state, one, &[]);
                    self.branch(&state, other, &[]);
                    let rest = self.unknown();
                    self.branch(&state, one, &[b, rest]);
                    let rest = self.unknown();
                    state.replace(other, &[a, rest]);
                }
            }
        }
    }

    fn branch(&mut self, state: &State, unknown: u16, by: &[Sym]) {
        let mut state = state.clone();
        state.replace(unknown, by);
        self.go(state);
    }

    fn unknown(&mut self) -> Sym {
        self.next = self.next.saturating_add(1);
        Sym::Unknown(self.next)
    }
}

// === impl State ===

impl State {
    fn replace(&mut self, unknown: u16, by: &[Sym]) {
        let texts = [&mut self.a, &mut self.b, &mut self.bound.namespace, &mut self.bound.account];
        for text in texts {
            if text.contains(&Sym::Unknown(unknown)) {
                *text = text
                    .iter()
                    .flat_map(|sym| match sym {
                        Sym::Unknown(one) if *one == unknown => by.to_vec(),
                        sym => vec![*sym],
                    })
                    .collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::template::Template;

    fn shape(text: &str) -> Shape {
        match text {
            "*" => Shape::Any,
            _ => match text.strip_suffix('*') {
                Some(prefix) => Shape::Prefix(Template::prefix(prefix).expect("valid")),
                None => Shape::Exact(Template::name(text).expect("valid")),
            },
        }
    }

    fn print(text: &[Sym]) -> String {
        let letter = |sym: &Sym| match sym {
            Sym::Letter(letter) => char::from(*letter),
            Sym::Unknown(_) => '?',
        };
        text.iter().map(letter).collect()
    }

    #[test]
    fn patterns_meet_for_those_whose_names_fit() {
        for (a, b, expected) in [
            ("{namespace}/*", "payments/db", &["payments|?"][..]),
            ("{namespace}/*", "pay-*", &["pay-?|?"]),
            ("{namespace}/*", "a/b/c/*", &["a|?"]),
            ("a/*", "a/b", &["?|?"]),
            ("a/*", "b/*", &[]),
            ("*", "{namespace}/*", &["?|?"]),
            ("{namespace}--*", "a--b--k", &["a|?"]),
            ("k/{namespace}", "k/a/b", &[]),
            ("{namespace}/{serviceAccount}", "a/b.c", &["a|b.c"]),
            ("{namespace}/{namespace}", "a/b", &[]),
            ("{namespace}/{namespace}", "a/a", &["a|?"]),
            ("{namespace}/*", "a-{serviceAccount}/*", &["a-?|?"]),
            ("x/{namespace}", "A/*", &[]),
            ("{namespace}/*", "a-{namespace}/*", &[]),
        ] {
            for (a, b) in [(a, b), (b, a)] {
                let found = unify(&Whom::everyone(), &shape(a), &shape(b)).expect("little work");
                let mut found: Vec<_> = found
                    .iter()
                    .map(|it| format!("{}|{}", print(&it.namespace), print(&it.account)))
                    .collect();
                // There are two ways to find out that two are the same.
                found.dedup();
                assert_eq!(found, expected, "{a} and {b}");
            }
        }
        // One is the other, or begins with it.
        let same = unify(&Whom::everyone(), &shape("{namespace}/*"), &shape("{serviceAccount}/*"));
        assert_eq!(same.expect("little work").len(), 2);
        let dot = unify(&Whom::everyone(), &shape("{namespace}.*"), &shape("{serviceAccount}/*"));
        assert!(dot.expect("little work").iter().any(|it| print(&it.account) == "?.?"));
    }
}
