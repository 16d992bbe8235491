//! Where the cluster is and who we are: a kubeconfig, or the pod's own service account.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::SetupError;

/// Reads what says where the cluster is. Refuses what would run programs, go through a
/// proxy or trust anybody.
pub(super) async fn read(
    path: Option<PathBuf>,
    context: Option<String>,
) -> Result<Config, SetupError> {
    let Some(path) = path else {
        return Config::incluster().map_err(|error| SetupError::NotInCluster(error.to_string()));
    };
    let failed = |error| SetupError::Kubeconfig {
        path: path.display().to_string(),
        message: message(&path, &error),
    };
    let kubeconfig = Kubeconfig::read_from(&path).map_err(failed)?;
    let has_proxy = chosen_cluster_has_proxy(&kubeconfig, context.as_deref());
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?;
    match &config {
        _ if has_proxy => Err(SetupError::Unsupported("a proxy-url: proxies are not supported")),
        Config { accept_invalid_certs: true, .. } => Err(SetupError::Unsupported(
            "insecure-skip-tls-verify, which is refused: give the certificate-authority",
        )),
        Config { auth_info, .. }
            if auth_info.exec.is_some() || auth_info.auth_provider.is_some() =>
        {
            Err(SetupError::Unsupported(
                "credentials of a plugin (exec or auth-provider), which is refused: \
                 give a token, a tokenFile or a client certificate",
            ))
        }
        _ => Ok(config),
    }
}

/// Whether calls would leave this machine without TLS.
pub(super) fn is_in_the_clear(config: &Config) -> bool {
    let is_loopback = |host: &str| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    config.cluster_url.scheme_str() != Some("https")
        && !config.cluster_url.host().is_some_and(is_loopback)
}

/// The error without what the parser quotes of the file, which holds credentials.
fn message(path: &Path, error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::Parse(_) => format!("{} is not a kubeconfig", path.display()),
        other => other.to_string(),
    }
}

/// kube would also take a proxy for everything else from the environment.
fn chosen_cluster_has_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> bool {
    let find = || {
        let name = context.or(kubeconfig.current_context.as_deref())?;
        let context = kubeconfig.contexts.iter().find(|named| named.name == name)?;
        let cluster = &context.context.as_ref()?.cluster;
        let cluster = kubeconfig.clusters.iter().find(|named| named.name == *cluster)?;
        cluster.cluster.as_ref()?.proxy_url.as_ref()
    };
    find().is_some_and(|url| !url.is_empty())
}
