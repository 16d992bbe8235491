//! The listeners themselves: health, reflection, unix sockets, TLS, draining.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Certificates, Client, Service};

const SERVICES: [&str; 2] =
    ["envoy.service.auth.v3.Authorization", "envoy.service.ext_proc.v3.ExternalProcessor"];

fn config(grpc: &str, rest: &str) -> String {
    format!(
        "mode: development\nlisteners:\n  grpc: {grpc}\n  rest: {rest}\n  \
         admin: {{address: '127.0.0.1:0'}}\nbackends: {{local: {{type: memory}}}}\n"
    )
}

async fn channel(service: &Service) -> Channel {
    match service.grpc().strip_prefix("unix:") {
        None => {
            let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc()));
            endpoint.expect("a URL").connect().await.expect("connected")
        }
        Some(path) => {
            let path = Path::new(path).to_owned();
            let connect = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://unix.test");
            endpoint.connect_with_connector(connect).await.expect("connected")
        }
    }
}

async fn health(channel: &Channel, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_by_service_name_on_ports_and_unix_sockets() {
    for grpc in ["{address: '127.0.0.1:0'}", "{address: 'unix:grpc.sock'}"] {
        let config = config(grpc, "{address: 'unix:rest.sock'}");
        let mut service = Service::start(&[("config.yaml", &config)]).await;
        let channel = channel(&service).await;
        for name in ["", SERVICES[0], SERVICES[1]] {
            assert_eq!(health(&channel, name).await, Some(ServingStatus::Serving), "{name:?}");
        }
        assert_eq!(health(&channel, "no.such.Service").await, None);
        assert!(service.path("rest.sock").exists());
        service.terminate();
        assert_eq!(service.exit_code().await, 0);
        assert!(!service.path("rest.sock").exists(), "the socket's file is gone");
        assert!(!service.path("grpc.sock").exists(), "the socket's file is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_that_nobody_listens_on_is_replaced() {
    let config = config("{address: 'unix:grpc.sock'}", "{address: '127.0.0.1:0'}");
    let mut service = Service::start(&[("config.yaml", &config)]).await;
    let path = service.path("grpc.sock");
    service.kill().await;
    assert!(path.exists(), "killed before it could clean up");
    let again = config.replace("unix:grpc.sock", &format!("unix:{}", path.display()));
    let again = Service::start(&[("config.yaml", &again)]).await;
    let channel = channel(&again).await;
    assert_eq!(health(&channel, "").await, Some(ServingStatus::Serving));
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_knows_both_services() {
    let config = config("{address: '127.0.0.1:0'}", "{address: '127.0.0.1:0'}");
    let service = Service::start(&[("config.yaml", &config)]).await;
    let mut client = ServerReflectionClient::new(channel(&service).await);
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let mut questions = vec![ask(MessageRequest::ListServices(String::new()))];
    questions.extend(SERVICES.map(|name| ask(MessageRequest::FileContainingSymbol(name.into()))));
    let asked = questions.len();
    let answers = client.server_reflection_info(tokio_stream::iter(questions)).await;
    let mut answers = answers.expect("a stream").into_inner();
    for at in 0..asked {
        let answer = answers.message().await.expect("no error").expect("an answer");
        match answer.message_response.expect("a message") {
            MessageResponse::ListServicesResponse(list) => {
                let names: Vec<_> = list.service.into_iter().map(|one| one.name).collect();
                for name in SERVICES {
                    assert!(names.iter().any(|found| found == name), "{names:?}");
                }
            }
            MessageResponse::FileDescriptorResponse(files) => {
                assert!(!files.file_descriptor_proto.is_empty(), "question {at}");
            }
            _ => panic!("question {at} has no answer"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_tls_takes_only_clients_of_its_authority() {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let rest = format!(
        "{{address: '127.0.0.1:0', tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}}}",
        file("tls.crt"),
        file("tls.key"),
        file("ca.crt")
    );
    let config = config("{address: '127.0.0.1:0'}", &rest);
    let service = Service::start(&[("config.yaml", &config)]).await;
    let known = certificates.workload("prod", "api");
    let known = Client::tls(service.rest(), &certificates, Some(known));
    assert_eq!(known.get("vaultmux.test", "/health").await.status, 200);
    assert_eq!(known.http2().get("vaultmux.test", "/health").await.status, 200);
    let unknown = Client::tls(service.rest(), &certificates, None);
    let body = crate::harness::sized("");
    let refused = unknown.try_send("GET", "vaultmux.test", "/health", &[], body).await;
    assert!(refused.is_err(), "{refused:?}");
}
