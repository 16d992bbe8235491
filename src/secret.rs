//! What a secret is called and what it holds.
//!
//! Names, references and versions are parsed here once, into types that every
//! other layer trusts. A [`SecretValue`] is the only place where plaintext
//! lives; it has no `Debug`, `Display` or `Serialize` that shows it. This module
//! depends on nothing else in the crate.

mod catalog;
mod name;
mod reference;
mod value;

pub use catalog::{Catalog, CatalogEntry, CatalogError, NameRoute};
pub use name::{InvalidName, NameEncoding, NameGrammar, SecretName};
pub use reference::{BackendName, InvalidReference, SecretField, SecretRef, SecretVersion};
pub use value::{SecretRecord, SecretValue};
