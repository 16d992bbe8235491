//! `can-i --all`: everything that a service account may reach.

use serde_json::{Value, json};

use super::{
    Answer, Output, print,
    rows::{Kind, Row, columns, merged, object, part, rule_json},
};
use crate::{
    config::Config,
    identity::{Principal, ProofKind},
    policy::{Needs, PolicySet, Reachable, RuleRef},
};

/// What is the same of all pieces in a line.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    needs: Option<Needs>,
    kind: Kind,
    /// In words: rules are in the order of their policies.
    rule: String,
    at: usize,
    except: Vec<(String, String)>,
}

/// Prints all that the principal may reach.
pub(super) fn answer(
    config: &Config,
    set: &PolicySet,
    principal: &Principal,
    output: Output,
) -> anyhow::Result<Answer> {
    let reach = set.reach(principal, &config.catalog)?;
    let mut rules: Vec<RuleRef> = Vec::new();
    let rows = reach.iter().map(|one| {
        let at = rules.iter().rposition(|rule| *rule == one.rule).unwrap_or_else(|| {
            rules.push(one.rule.clone());
            rules.len() - 1
        });
        Row { key: key(one, at), columns: columns(&one.piece) }
    });
    let rows = merged(rows.collect::<Vec<_>>());
    let now = rows.iter().any(|row| row.key.needs.is_none());
    match output {
        Output::Text => in_words(&rows, principal).iter().for_each(|line| print(line)),
        Output::Json => print(&to_json(&rows, &rules, principal).to_string()),
    }
    Ok(if now { Answer::Yes } else { Answer::No })
}

fn key(one: &Reachable, at: usize) -> Key {
    let except = one.except.iter();
    let except = except.map(|denied| (part(&one.piece, &denied.piece), denied.rule.to_string()));
    Key {
        needs: one.needs,
        kind: Kind::of(&one.piece),
        rule: one.rule.to_string(),
        at,
        except: except.collect(),
    }
}

/// Those within reach first, then by what else they need.
fn groups(rows: &[Row<Key>]) -> Vec<(Option<Needs>, Vec<&Row<Key>>)> {
    let mut groups: Vec<(Option<Needs>, Vec<&Row<Key>>)> = vec![(None, Vec::new())];
    for row in rows {
        match groups.iter_mut().find(|(needs, _)| *needs == row.key.needs) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((row.key.needs, vec![row])),
        }
    }
    groups
}

fn in_words(rows: &[Row<Key>], principal: &Principal) -> Vec<String> {
    let bound = if principal.is_bound_to_pod() { ", bound to a pod" } else { "" };
    let mut lines = Vec::new();
    for (needs, rows) in groups(rows) {
        lines.push(match needs {
            None if rows.is_empty() => {
                format!("{principal} ({}{bound}) reaches nothing", principal.proofs())
            }
            None => format!("{principal} ({}{bound}) reaches:", principal.proofs()),
            Some(Needs { proofs, bound_to_pod }) => {
                let proofs: Vec<_> = proofs.iter().map(ProofKind::as_str).collect();
                let bound = if bound_to_pod { " --bound-to-pod" } else { "" };
                format!("with --proofs {}{bound}:", proofs.join(","))
            }
        });
        for Row { key, columns } in rows {
            lines.push(format!("  {}", key.kind.in_words(columns)));
            lines.push(format!("    by {}", key.rule));
            let except = key.except.iter();
            lines.extend(except.map(|(what, by)| format!("    except {what}: denied by {by}")));
        }
    }
    lines
}

fn to_json(rows: &[Row<Key>], rules: &[RuleRef], principal: &Principal) -> Value {
    let reaches = rows.iter().map(|Row { key, columns }| {
        let except = key.except.iter().map(|(what, by)| json!({"what": what, "denied_by": by}));
        let needs = key.needs.map(|Needs { proofs, bound_to_pod }| {
            let proofs: Vec<_> = proofs.iter().map(ProofKind::as_str).collect();
            json!({"proofs": proofs, "bound_to_pod": bound_to_pod})
        });
        let more = json!({"except": except.collect::<Vec<_>>(), "needs": needs});
        let more = more.as_object().cloned().unwrap_or_default();
        object([key.kind.to_json(columns), rule_json(&rules[key.at]), more])
    });
    let proofs: Vec<_> = principal.proofs().iter().map(ProofKind::as_str).collect();
    json!({
        "principal": principal.to_string(),
        "proofs": proofs,
        "bound_to_pod": principal.is_bound_to_pod(),
        "reaches": reaches.collect::<Vec<_>>(),
    })
}
