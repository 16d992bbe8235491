//! Kubernetes Secrets in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    backends::kubernetes::{KubernetesSettings, NamespaceScope},
    config::value::Context,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct KubernetesFile {
    // No default: whether callers share a namespace is not to be guessed.
    namespace: String,
    kubeconfig: Option<PathBuf>,
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
