//! References on surfaces other than headers: what each stands for, or why it is only text.

use futures_util::future::try_join_all;

use super::{Exchange, Used};
use crate::{
    api::{Problem, ProblemCode, Refusal},
    ext_proc::{session::Place, surface},
    identity::Principal,
    injection::{Refused, Resolution, Target, Violation},
    policy::{Denial, Permit, Reason},
    secret::SecretRecord,
};

/// Different secrets that are put into one request outside of its headers.
const MAX_DISTINCT: usize = 8;

/// A reference that may not be used where it stands.
struct Violated {
    reason: &'static str,
    violation: Violation,
    /// What the caller is told if the request ends over it.
    refusal: Box<Refusal>,
}

// === impl Exchange ===

impl Exchange<'_> {
    /// What references stand for on a surface other than headers. One that may not be used
    /// is text, or the end of the request.
    pub(in crate::ext_proc) async fn decide(
        &self,
        principal: Option<&Principal>,
        place: Place,
        texts: Vec<String>,
        used: &mut Used,
    ) -> Result<Vec<(String, Resolution)>, Refusal> {
        let mut decided = Vec::with_capacity(texts.len());
        let mut permits: Vec<(String, Target, Permit)> = Vec::new();
        for text in texts {
            let fetched = permits.len() + used.secrets.len();
            match self.permit(principal, place, &text, fetched) {
                Ok((target, permit)) => permits.push((text, target, permit)),
                Err(violation) => {
                    self.violation(place, violation)?;
                    decided.push((text, Resolution::Inert));
                }
            }
        }
        let records: Vec<SecretRecord> = match principal {
            None => Vec::new(),
            Some(principal) => {
                let injector = self.injector(principal);
                let permits = permits.iter().map(|(_, _, permit)| permit);
                try_join_all(permits.map(|permit| injector.resolve(permit))).await?
            }
        };
        for ((text, target, permit), record) in permits.into_iter().zip(records) {
            let written = surface::write(place.surface, &target, &record.value);
            let written = match principal {
                Some(principal) => self.injector(principal).placed(1, written)?,
                None => written?,
            };
            self.metrics.ext_proc_surface(place.surface.as_str(), "replaced");
            used.add(permit, record);
            decided.push((text, Resolution::Value(written)));
        }
        Ok(decided)
    }

    /// The right to use what a text names, or why it is only text.
    fn permit(
        &self,
        principal: Option<&Principal>,
        place: Place,
        text: &str,
        fetched: usize,
    ) -> Result<(Target, Permit), Violated> {
        let violated = |reason, on_violation: Option<Violation>, refusal: Refusal| Violated {
            reason,
            violation: on_violation.unwrap_or(place.violation),
            refusal: refusal.into(),
        };
        let target =
            self.snapshot.substitutions.target(text, &self.snapshot.catalog).map_err(|error| {
                violated(error.as_str(), None, Refusal::from(Refused::Reference(error)))
            })?;
        let on_violation = target.on_violation;
        let Some(principal) = principal else {
            let refusal = self.deny(Denial::new(Reason::NoIdentity), None);
            return Err(violated("no_identity", on_violation, refusal));
        };
        let injector = self.injector(principal);
        let permit = injector
            .permit(&target.secret)
            .map_err(|denial| violated("denied", on_violation, Refusal::from(denial)))?;
        if let Err(refusal) = injector.encrypted() {
            return Err(violated("clear_text", on_violation, refusal));
        }
        if let Some(reason) = place.frozen {
            let details = format!("vaultmux_not_rewritable:{reason}");
            let problem = Problem::new(ProblemCode::InvalidBody);
            return Err(violated(reason, on_violation, Refusal { problem, details }));
        }
        if fetched >= MAX_DISTINCT {
            return Err(violated("too_many", on_violation, Refused::TooMany.into()));
        }
        Ok((target, permit))
    }

    fn violation(&self, place: Place, violated: Violated) -> Result<(), Refusal> {
        let surface = place.surface.as_str();
        self.metrics.ext_proc_surface(surface, violated.reason);
        match violated.violation {
            Violation::Deny => Err(*violated.refusal),
            Violation::Inert => Ok(()),
            Violation::Log => {
                let reason = violated.reason;
                let request_id = self.request_id;
                tracing::warn!(surface, reason, request_id, "reference is left as text");
                Ok(())
            }
        }
    }
}
