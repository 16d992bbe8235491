//! The SDK's way to the network: the one TLS stack that this service has, and the
//! proxy that the environment names.

use aws_sdk_secretsmanager::config::ConfigBag;
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};

/// HTTPS through the proxy that `HTTPS_PROXY` or `ALL_PROXY` names, but not to what
/// `NO_PROXY` lists; plain HTTP always directly. AWS speaks HTTPS. Plain HTTP is how
/// the instance, the task or the pod hands out credentials, which are not for a
/// proxy to see: the SDK's own reading of `HTTP_PROXY` would send them there.
pub(super) fn client() -> SharedHttpClient {
    let secure = Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    });
    SharedHttpClient::new(Client { secure, plain: Builder::new().build_http() })
}

#[derive(Debug)]
struct Client {
    secure: SharedHttpClient,
    plain: SharedHttpClient,
}

/// The two ways, for one set of timeouts.
#[derive(Debug)]
struct Route {
    secure: SharedHttpConnector,
    plain: SharedHttpConnector,
}

// === impl Client ===

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Route {
            secure: self.secure.http_connector(settings, components),
            plain: self.plain.http_connector(settings, components),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.secure.validate_base_client_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.secure.connector_metadata()
    }
}

// === impl Route ===

impl HttpConnector for Route {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let plain = request.uri().starts_with("http://");
        if plain { self.plain.call(request) } else { self.secure.call(request) }
    }
}
