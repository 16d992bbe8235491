//! What it means that our own credentials could not be had: the identity endpoint
//! refused, or it could not be asked.

use std::error::Error as StdError;

use aws_config::{imds::client::error::ImdsError, meta::ProviderChainError};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};

use super::{Answer, from_answer};
use crate::backends::{
    BackendError,
    failure::{causes, chain, from_status},
};

/// Sorts a failure to get credentials; `None` if that was not the failure.
pub(super) fn sorted(error: &(dyn StdError + 'static)) -> Option<BackendError> {
    // A role is assumed with the credentials of another provider: the innermost
    // failure was the first.
    let failure = causes(error).filter_map(|e| e.downcast_ref::<CredentialsError>()).last()?;
    let cause = || Some(chain(error));
    let kind = match failure {
        CredentialsError::ProviderTimedOut(_) => BackendError::TimedOut,
        _ if unreached(failure) => BackendError::Unavailable(None),
        // An answer that could not be read is not a refusal.
        CredentialsError::Unhandled(_) => BackendError::Unavailable(None),
        _ => refusal(failure).unwrap_or(BackendError::PermissionDenied(None)),
    };
    Some(match kind {
        BackendError::TimedOut | BackendError::Throttled { .. } => kind,
        BackendError::Unavailable(_) => BackendError::Unavailable(cause()),
        _ => BackendError::PermissionDenied(cause()),
    })
}

/// Whether an endpoint that gives credentials was not reached; it has refused
/// nothing. The chain of providers keeps what each said beside its own causes.
fn unreached(failure: &(dyn StdError + 'static)) -> bool {
    causes(failure).any(|cause| {
        cause.is::<ConnectorError>()
            || cause
                .downcast_ref::<ProviderChainError<CredentialsError>>()
                .is_some_and(|chain| chain.attempts().iter().any(|tried| unreached(tried.error())))
    })
}

/// What the endpoint answered, if it did.
fn refusal(failure: &(dyn StdError + 'static)) -> Option<BackendError> {
    causes(failure).find_map(|cause| {
        sts(cause.downcast_ref::<SdkError<AssumeRoleError>>())
            .or_else(|| sts(cause.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError>>()))
            .or_else(|| match cause.downcast_ref::<ImdsError>()? {
                ImdsError::ErrorResponse(answer) => {
                    Some(from_status(answer.response().status().as_u16(), None, None))
                }
                _ => None,
            })
            .or_else(|| Some(from_status(container_status(&cause.to_string())?, None, None)))
    })
}

fn sts<E: ProvideErrorMetadata>(error: Option<&SdkError<E>>) -> Option<BackendError> {
    Some(match error? {
        SdkError::ServiceError(context) => {
            from_answer(&Answer::new(context.err().meta(), context.raw()))
        }
        SdkError::TimeoutError(_) => BackendError::TimedOut,
        SdkError::ResponseError(_) => BackendError::Unavailable(None),
        _ => return None,
    })
}

/// The status that the endpoint of a container or pod answered with. The SDK keeps
/// it as text alone: `… from HTTP credential provider: StatusCode(503)`.
fn container_status(text: &str) -> Option<u16> {
    let (_, status) = text.split_once("HTTP credential provider: StatusCode(")?;
    status.split_once(')')?.0.parse().ok()
}
