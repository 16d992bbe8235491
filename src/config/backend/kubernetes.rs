//! Kubernetes Secrets in the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    backends::kubernetes::{KubernetesSettings, NamespaceScope},
    config::{schema, value::Context},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("dependencies" = {"context": ["kubeconfig"]}))]
pub(in crate::config) struct KubernetesFile {
    /// Whose secrets: a namespace's, or `{namespace}` for each caller's own.
    // No default: whether callers share a namespace is not to be guessed.
    #[schemars(with = "schema::NamespaceOrCallers")]
    namespace: String,
    /// How to reach the API server from outside the cluster. By default as a pod does.
    kubeconfig: Option<PathBuf>,
    /// Which context of `kubeconfig`; its current one by default.
    context: Option<String>,
}

// === impl KubernetesFile ===

impl KubernetesFile {
    pub(super) fn check(self, paths: &Context<'_>) -> Result<KubernetesSettings, String> {
        let Self { namespace, kubeconfig, context } = self;
        let namespace = NamespaceScope::parse(&namespace).ok_or_else(|| {
            format!("namespace {namespace:?} is neither \"{{namespace}}\" nor a namespace's name")
        })?;
        if context.is_some() && kubeconfig.is_none() {
            return Err("context is one of a kubeconfig, and none is named".to_owned());
        }
        let kubeconfig = kubeconfig.map(|path| paths.resolve(path));
        Ok(KubernetesSettings { namespace, kubeconfig, context })
    }
}
