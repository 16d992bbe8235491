//! What stores that can tell say by themselves: which secrets may have changed.
//!
//! A change is a hint, as a notice of a webhook is: whoever hears of it reads anew.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;

use super::BackendError;
use crate::secret::SecretName;

/// What may have changed in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One secret, in a store that all callers see alike.
    Secret(SecretName),
    /// All secrets whose names have this first segment.
    Segment {
        /// In which namespace, in a store whose secrets live in their callers' namespaces.
        namespace: Option<Arc<str>>,
        /// Up to the first `/`.
        segment: Arc<str>,
    },
    /// Any of them: changes may have gone unseen before this.
    Any,
    /// Nothing: changes are told from here on, and went untold nowhere.
    None,
}

/// Changes as they happen. After an error or the end, changes may go unseen until another
/// stream begins, with [`Change::Any`] unless it goes on where the one before ended.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, BackendError>> + Send>>;
