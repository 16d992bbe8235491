//! Secret operations, answered as REST answers them.

use bytes::Bytes;
use http::Method;

use super::Exchange;
use crate::{
    api::{self, Api, ApiRequest, Problem, ProblemCode, Refusal},
    ext_proc::{HeadersAnswer, RequestHeaders, attributes::CallerError},
    operation::SecretPath,
    policy::{Denial, Reason},
};

impl Exchange<'_> {
    /// Answers a secret operation as REST does.
    pub(super) async fn operate(
        &self,
        api: &Api,
        request: &RequestHeaders,
        below: SecretPath<'_>,
    ) -> HeadersAnswer {
        let caller = self.head.caller(request, self.snapshot);
        let principal = caller.as_ref().ok();
        let (_, query) = match api::target(self.head.target) {
            Ok(target) => target,
            Err(problem) => {
                let details = "vaultmux_malformed_request".to_owned();
                return self.refuse(principal, Refusal { problem, details });
            }
        };
        let Ok(method) = Method::from_bytes(self.head.method.as_bytes()) else {
            let problem = Problem::new(ProblemCode::MalformedRequest);
            let details = "vaultmux_malformed_request".to_owned();
            return self.refuse(principal, Refusal { problem, details });
        };
        let caller = match &caller {
            Ok(principal) => Ok(principal),
            Err(CallerError::Identity(error)) => Err(*error),
            Err(CallerError::Grant(_)) => {
                let refusal = self.deny(Denial::new(Reason::InvalidIdentity), None);
                return self.refuse(None, refusal);
            }
        };
        let headers = api::conditions(self.head.headers());
        let request = ApiRequest {
            method: &method,
            below,
            query,
            headers: &headers,
            body: &[],
            request_id: self.request_id,
            traceparent: self.head.traceparent,
        };
        let mut response = api.answer(self.snapshot, caller, request, self.deadline).await;
        if method == Method::HEAD {
            // Envoy takes length and type from a body that it then leaves out.
            let length = response.body().len();
            *response.body_mut() = Bytes::from(vec![b' '; length]);
        }
        self.log("answered", caller.ok(), Some(response.status().as_u16()));
        self.respond(response, "vaultmux_secret_operation")
    }
}
