//! Lists, a page at a time, whatever address the store names for the next one.

use azure_core::http::{
    Context, UrlExt,
    pager::{PagerContinuation, PagerOptions},
};
use azure_security_keyvault_secrets::models::{
    ListSecretPropertiesResult, SecretClientListSecretPropertiesOptions,
    SecretClientListSecretPropertiesVersionsOptions, SecretProperties,
};
use futures_util::TryStreamExt;

use super::{AzureBackend, error::from_sdk};
use crate::backends::BackendError;

/// Names or versions in one page; the most that the store gives.
const PAGE: i32 = 25;

/// Which list to read a page of.
pub(super) enum List<'a> {
    Names,
    VersionsOf(&'a str),
}

// === impl AzureBackend ===

impl AzureBackend {
    /// One page, and where the next one starts.
    pub(super) async fn page(
        &self,
        list: List<'_>,
        cursor: Option<&str>,
    ) -> Result<(Vec<SecretProperties>, Option<String>), BackendError> {
        // Always this vault and this list, whatever address the store names: what is
        // sent there carries our token.
        let continuation = cursor.map(|cursor| {
            let mut url = self.client.endpoint().clone();
            match list {
                List::Names => url.append_path("/secrets"),
                List::VersionsOf(name) => url.append_path(format!("/secrets/{name}/versions")),
            }
            url.set_query(Some(cursor));
            PagerContinuation::Link(url)
        });
        let method_options = PagerOptions { context: Context::default(), continuation };
        let pager = match list {
            List::Names => {
                let options = SecretClientListSecretPropertiesOptions {
                    maxresults: Some(PAGE),
                    method_options,
                };
                self.client.list_secret_properties(Some(options))
            }
            List::VersionsOf(name) => {
                let options = SecretClientListSecretPropertiesVersionsOptions {
                    maxresults: Some(PAGE),
                    method_options,
                };
                self.client.list_secret_properties_versions(name, Some(options))
            }
        };
        let page = pager.map_err(from_sdk)?.into_pages().try_next().await.map_err(from_sdk)?;
        let Some(page) = page else { return Ok((Vec::new(), None)) };
        let page: ListSecretPropertiesResult = page.into_model().map_err(from_sdk)?;
        let next = page.next_link.filter(|link| !link.is_empty());
        let next = next.map(|link| self.cursor(&link)).transpose()?;
        Ok((page.value, next))
    }

    /// The query of the link to the next page; the SDK adds the API's version.
    fn cursor(&self, next_link: &str) -> Result<String, BackendError> {
        let odd = || BackendError::Invalid("the next page has no address".to_owned());
        let link = self.client.endpoint().join(next_link).map_err(|_| odd())?;
        let pairs = link.query_pairs().filter(|(key, _)| key != "api-version");
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        if query.is_empty() { Err(odd()) } else { Ok(query) }
    }
}
