//! References in cookies, where a rule opens them: replaced in the one `cookie` header that
//! an answer to a check can set.

use bytes::Bytes;

use super::{
    attributes,
    inject::{Allowed, SetHeader},
};
use crate::{
    api::{Injector, Problem, ProblemCode, Refusal},
    injection::{Progress, Refused, Resolution, Scanner, Surface, Target, Violation, is_encoded},
    secret::SecretValue,
};

const COOKIE: &str = "cookie";
/// Different secrets that are put into one request's cookies.
const MAX_DISTINCT: usize = 8;

/// The cookies of a request, with references in them. Without `Debug`, since it comes to hold
/// values.
pub(super) struct Cookies<'a> {
    text: &'a [u8],
    scanner: Scanner,
    violation: Violation,
}

// === impl Cookies ===

impl<'a> Cookies<'a> {
    /// Those of this request, if they have references.
    ///
    /// # Errors
    /// A reference that no answer could replace.
    pub(super) fn find(
        allowed: &Allowed<'a>,
        violation: Violation,
    ) -> Result<Option<Self>, Refused> {
        let headers = attributes::headers(allowed.request);
        let mut values = headers.filter(|(name, _)| name.eq_ignore_ascii_case(COOKIE));
        let finder = allowed.snapshot.substitutions.finder(Surface::Cookie);
        let scanner = Scanner::new(finder, violation == Violation::Deny);
        let (mut found, mut count) = (None, 0);
        for (_, text) in values.by_ref() {
            count += 1;
            if violation == Violation::Deny && is_encoded(text) {
                return Err(Refused::Encoded);
            }
            if scanner.suspects(text) {
                found = Some(text);
            }
        }
        match found {
            None => Ok(None),
            // One would take the place of all.
            Some(_) if count > 1 => Err(Refused::Position),
            Some(text) => Ok(Some(Self { text, scanner, violation })),
        }
    }

    /// The header with values in place of references; none if none may be used.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) async fn replace(
        mut self,
        injector: &Injector<'_>,
    ) -> Result<Option<SetHeader>, Refusal> {
        let mut out = Vec::new();
        let mut asked = 0;
        let mut progress = self.scanner.push_last(Bytes::copy_from_slice(self.text), &mut out);
        loop {
            match progress {
                Progress::Idle => break,
                Progress::TooMany => return self.refuse(injector, Refused::TooMany),
                Progress::Misplaced => return self.refuse(injector, Refused::Position),
                Progress::Needs(texts) => {
                    let mut known = Vec::with_capacity(texts.len());
                    for text in texts {
                        let resolution = self.resolve(injector, &text, &mut asked).await?;
                        known.push((text, resolution));
                    }
                    progress = self.scanner.resolved(known, &mut out);
                }
            }
        }
        for _ in 0..self.scanner.skipped().too_many {
            injector.recorder.metrics.ext_authz_reference("inert", Refused::TooMany.reason());
        }
        if self.scanner.replaced() == 0 {
            return Ok(None);
        }
        let value = String::from_utf8(out.concat()).map_err(|error| {
            // What was wrong is said without the bytes.
            drop(zeroize::Zeroizing::new(error.into_bytes()));
            Refusal::from(Refused::NotText)
        })?;
        Ok(Some(SetHeader { name: COOKIE.to_owned(), value }))
    }

    /// What one of them stands for.
    async fn resolve(
        &self,
        injector: &Injector<'_>,
        text: &str,
        asked: &mut usize,
    ) -> Result<Resolution, Refusal> {
        let snapshot = injector.snapshot;
        let target = match snapshot.substitutions.target(text, &snapshot.catalog) {
            Ok(target) => target,
            Err(error) => {
                let refused = Refused::Reference(error);
                let reason = refused.reason();
                return violated(injector, self.violation, refused.into(), reason);
            }
        };
        let violation = target.on_violation.unwrap_or(self.violation);
        let permit = match injector.permit(&target.secret) {
            Ok(permit) => permit,
            Err(denial) => {
                let reason = denial.reason.as_str();
                let refusal = Refusal::denied(denial, injector.recorder.edge);
                return violated(injector, violation, refusal, reason);
            }
        };
        if let Err(refusal) = injector.encrypted() {
            return violated(injector, violation, refusal, "clear_text");
        }
        *asked += 1;
        if *asked > MAX_DISTINCT {
            let refused = Refused::TooMany;
            let reason = refused.reason();
            return violated(injector, violation, refused.into(), reason);
        }
        let record = injector.resolve(&permit).await?;
        let written = injector.placed(1, write(&target, &record.value))?;
        Ok(Resolution::Value(written))
    }

    fn refuse<T>(&self, injector: &Injector<'_>, refused: Refused) -> Result<T, Refusal> {
        injector.recorder.metrics.ext_authz_reference("denied", refused.reason());
        Err(refused.into())
    }
}

/// A reference that may not be used there: text, or the end of the request.
fn violated(
    injector: &Injector<'_>,
    violation: Violation,
    refusal: Refusal,
    reason: &'static str,
) -> Result<Resolution, Refusal> {
    let recorder = injector.recorder;
    match violation {
        Violation::Deny => {
            recorder.metrics.ext_authz_reference("denied", reason);
            return Err(refusal);
        }
        Violation::Inert => {}
        Violation::Log => {
            let request_id = recorder.request_id;
            tracing::warn!(reason, request_id, "reference in a cookie is left as text");
        }
    }
    recorder.metrics.ext_authz_reference("inert", reason);
    Ok(Resolution::Inert)
}

#[expect(clippy::disallowed_methods, reason = "the cookie that the secret was permitted for")]
fn write(target: &Target, value: &SecretValue) -> Result<Bytes, Refusal> {
    let unfit = |reason: &dyn std::fmt::Display| {
        let text = "the secret cannot be put there".to_owned();
        let problem = Problem::with_error(ProblemCode::BackendRefused, text);
        let details = format!("vaultmux_value_unfit:{reason}:{}", target.secret);
        Refusal { problem, details }
    };
    let written = Surface::Cookie.write(value.expose_secret()).map_err(|reason| unfit(&reason))?;
    match target.length {
        Some(length) if length != written.len() => Err(unfit(&"length")),
        _ => Ok(Bytes::from_owner(written)),
    }
}
