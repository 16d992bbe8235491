//! The key set that the API server serves itself.

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::jwks::{FetchedKeys, KeySource};
use crate::apiserver::ApiServer;

/// OpenID Connect Discovery 1.0, section 4; Kubernetes serves both below its own address.
const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

pub(super) struct ClusterSource(pub(super) ApiServer);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

// === impl ClusterSource ===

impl ClusterSource {
    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let request = Request::get(path).header(http::header::ACCEPT, "*/*").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.0.send(request, MAX_ANSWER).await.map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok(answer.body),
            403 => Err(format!(
                "{path}: we may not read it (status 403): the role \
                 system:service-account-issuer-discovery is missing"
            )),
            status => Err(format!("{path}: the API server answered status {status}")),
        }
    }
}

#[async_trait]
impl KeySource for ClusterSource {
    async fn fetch(&self) -> Result<FetchedKeys, String> {
        let discovery = self.get(DISCOVERY).await?;
        let discovery: Discovery = serde_json::from_slice(&discovery)
            .map_err(|_| format!("{DISCOVERY}: the answer is no discovery document"))?;
        let keys = self.get(KEYS).await?.to_vec();
        Ok(FetchedKeys { issuer: Some(discovery.issuer), keys })
    }
}
