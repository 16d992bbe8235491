//! Every rule there is. Their ids are a promise; `docs/lint.md` lists them.

use super::{Rule, Severity};

macro_rules! rules {
    ($($name:ident: $severity:ident, $id:literal, $what:literal, $why:literal, $help:literal;)*) => {
        $(pub(super) static $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            what: $what,
            why: $why,
            help: $help,
        };)*

        /// All rules, those about what fails open first.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    // Fails open.
    AUTHZ_FAILS_OPEN: Error, "authz-fails-open",
        "ext_authz lets requests pass when the service cannot be asked",
        "whoever can slow down, crowd out or crash the service gets everything allowed",
        "set `failure_mode_allow: false`; in Istio and Envoy Gateway `failOpen: false`";
    PROC_FAILS_OPEN: Error, "proc-fails-open",
        "ext_proc lets requests pass when the service cannot be asked",
        "requests go out with references instead of secrets, rules that require one are skipped, and nothing is taken out of answers",
        "set `failure_mode_allow: false`; in Envoy Gateway `failOpen: false`";
    SHADOW_MODE: Warning, "shadow-mode",
        "the filter asks, and does not do what the answer says",
        "a denied request passes, and no secret is put in or taken out",
        "take `shadow_mode`, `observability_mode` or `shadowMode` out once it has been tried; a policy's `mode: Audit` tries single policies";
    AUTHZ_OFF: Error, "authz-disabled",
        "ext_authz is switched off or taken out",
        "what comes that way is not asked about, and passes",
        "take `disabled`, `filter_enabled`, the override or the patch out; leave single paths out by routes that match those alone";
    DISABLED_BY_CALLER: Error, "authz-disabled-by-caller",
        "the caller can choose a route on which ext_authz is disabled",
        "the route or matcher looks at headers, cookies or the query, which callers write themselves",
        "match the route without the filter by path alone, or ask on it too";
    PROC_OFF: Error, "proc-disabled",
        "what ext_proc guards can be reached without it",
        "rules that require a reference do not hold there, secrets are not put in, and nothing is taken out of answers",
        "take `disabled` or the patch out, or lead to another cluster";
    NO_CATCH_ALL_DOMAIN: Error, "no-catch-all-domain",
        "no virtual host has the domain `*`",
        "a request without a route skips ext_authz, and a later filter may still find it one",
        "add a virtual host with `domains: [\"*\"]` that answers 404";
    NO_CATCH_ALL_ROUTE: Error, "no-catch-all-route",
        "the last route of a virtual host does not match everything",
        "a request without a route skips ext_authz, and a later filter may still find it one",
        "end its routes with `{match: {prefix: /}, direct_response: {status: 404}}`";
    FILTER_AFTER_ROUTER: Error, "filter-after-router",
        "a filter stands after the router",
        "the router ends the chain: what stands behind it never runs",
        "put the router last";
    PROC_BEFORE_AUTHZ: Error, "proc-before-authz",
        "ext_proc stands before ext_authz",
        "secrets are fetched and put into requests that are denied afterwards, and there is no grant yet that says whose request it is",
        "put ext_authz first; in an EnvoyFilter insert ext_proc before `envoy.filters.http.router`";
    AUTHZ_AFTER_CONSUMER: Error, "authz-after-consumer",
        "a filter that uses what ext_authz says stands before it, or answers requests by itself",
        "it sees what the caller wrote under those names, or answers without anyone having been asked",
        "put ext_authz before it";
    ROUTE_CACHE_CLEARED: Error, "route-cache-cleared",
        "the route is chosen anew after the service has answered",
        "a decision about one route and a secret for one destination would go to another",
        "set `clear_route_cache: false` or `route_cache_action: RETAIN`, or put the filter that does it before ext_authz; in Envoy Gateway `recomputeRoute: false`";
    IMMEDIATE_RESPONSE_DISABLED: Error, "immediate-response-disabled",
        "ext_proc may not answer by itself",
        "refusals and secret reads are answers of the filter: without them there are errors at best, and with a filter that fails open there is everything",
        "take `disable_immediate_response` out";

    // Whose request it is.
    CLIENT_CERT_FORWARDED: Error, "client-cert-forwarded",
        "x-forwarded-client-cert is taken from the client",
        "whoever connects says in a header who it is, and that is what the service reads behind this proxy",
        "set `forward_client_cert_details: SANITIZE_SET`";
    CLIENT_CERT_APPENDED: Warning, "client-cert-appended",
        "x-forwarded-client-cert keeps what the client sent",
        "only the last element is this proxy's own word, all others are the caller's",
        "set `SANITIZE_SET` where clients come in; behind other proxies keep `identity.forwarded_client_cert.position: last`";
    TRUSTED_PEERS_MISSING: Error, "trusted-peers-missing",
        "the gRPC listener is open and trusts whoever connects",
        "any workload that reaches it can claim to be any other and have its secrets put into a request",
        "set `listeners.grpc.trusted_peers` to the proxies' own SPIFFE IDs, with `tls.client_ca_file`";
    TRUSTED_TOO_WIDE: Error, "trusted-too-wide",
        "our own configuration trusts a network that is nearly everyone's",
        "whoever connects from there is believed about whose request it is",
        "name the proxies' SPIFFE IDs, with `tls.client_ca_file`, or their own networks";
    SERVICE_UNPROTECTED: Error, "service-unprotected",
        "no policy keeps others from the service's own ports",
        "whoever reaches the gRPC port can claim any identity, and a policy for `*` keeps nobody out",
        "add an AuthorizationPolicy in the service's namespace that allows the proxies' service accounts alone, with a NetworkPolicy";
    GRANT_NOT_FORWARDED: Error, "grant-not-forwarded",
        "ext_proc is not told what ext_authz found out",
        "the grant that says whose request it is stays behind, and everything that needs one is denied",
        "add `envoy.filters.http.ext_authz` to `metadata_options.forwarding_namespaces.untyped`; in Envoy Gateway to `metadata.accessibleNamespaces`";
    PROC_WITHOUT_IDENTITY: Warning, "proc-without-identity",
        "nothing tells ext_proc whose request it is",
        "without a grant, the peer's certificate or the listener's direction no secret is put in",
        "add `connection.uri_san_peer_certificate` to `request_attributes` on the way in, `xds.listener_direction` on the way out, or put ext_authz before it";
    HTTP_AUTHZ_WITHOUT_IDENTITY: Error, "http-authz-without-identity",
        "over HTTP the service is not told who is calling",
        "it sees the listed headers only, and none of them can prove anything: all is denied",
        "list `x-forwarded-client-cert`, `authorization` or both; or ask over gRPC";
    IDENTITY_WITHHELD: Warning, "identity-withheld",
        "headers that may prove who is calling are not sent to ext_authz",
        "callers with a token are denied, and one that contradicts a certificate is not seen",
        "add `authorization` to `allowed_headers` (`headersToExtAuth`), or send all";
    PEER_CERTIFICATE_ABSENT: Warning, "peer-certificate-absent",
        "the caller's certificate is not sent along",
        "the principal is its first URI name only; a second one that makes it invalid is not seen",
        "set `include_peer_certificate: true`";
    HEADERS_JOINED: Warning, "headers-joined",
        "headers are sent joined and cleaned",
        "two headers of one name look like one, and bytes that are no UTF-8 become `!`",
        "set `encode_raw_headers: true`";
    UNDERSCORE_HEADERS: Warning, "underscore-headers",
        "header names with underscores pass",
        "`x_vaultmux_principal` and `x-vaultmux-principal` are one header to many frameworks, and only the second is overwritten",
        "set `common_http_protocol_options.headers_with_underscores_action: REJECT_REQUEST`";
    PATH_NOT_NORMALISED: Error, "path-not-normalised",
        "paths are not brought into one form before they are decided",
        "`/public/../admin` and `//admin` are one path to the upstream and another to a rule",
        "set `normalize_path: true`, `merge_slashes: true` and `path_with_escaped_slashes_action`; in Istio `pathNormalization.normalization: MERGE_SLASHES` or more";
    PERMISSIVE: Warning, "peer-authentication-permissive",
        "clear text is accepted where certificates prove who is calling",
        "callers without a certificate have no principal and are denied, and tokens travel in the clear",
        "set `mtls.mode: STRICT`, and except single ports such as metrics";
    WAYPOINT_WITHOUT_IDENTITY: Error, "waypoint-without-identity",
        "the waypoint does not name its clients to the service",
        "TLS ends before it, so a check request from there has no principal, and all is denied",
        "annotate the Gateway with `ambient.istio.io/xfcc-include-client-identity: \"true\"` (Istio 1.30) and trust the waypoint in `identity.forwarded_client_cert`";

    // Secrets on the wire.
    UPSTREAM_CLEARTEXT: Error, "upstream-cleartext",
        "a destination that secrets are put in for is reached in clear text",
        "the secret can be read on the way, and nobody has proven to be the destination",
        "give the cluster a TLS transport socket; in Istio a DestinationRule with `tls.mode: SIMPLE`";
    UPSTREAM_UNVERIFIED: Error, "upstream-unverified",
        "the other end's certificate is not checked against a name",
        "any server whose certificate the authority signed would do, or any at all",
        "set `trusted_ca` and `match_typed_subject_alt_names` with whole names; in a DestinationRule `subjectAltNames`";
    SERVICE_CLEARTEXT: Error, "service-cleartext",
        "the service is asked in clear text beyond this machine",
        "its answers hold secrets",
        "give the cluster a TLS transport socket, or use loopback or a unix socket";
    ROUTING_MUTABLE: Error, "routing-mutable",
        "the service may change where a request goes",
        "host, scheme and method are what the decision was about",
        "take `allow_all_routing` out";
    MUTATION_RULES_ABSENT: Warning, "mutation-rules-absent",
        "nothing bounds which headers the service may change",
        "a mistake in it could rewrite the path or what says who is calling",
        "name what it may touch: `decoder_header_mutation_rules` of ext_authz, `mutation_rules` of ext_proc";
    MUTATIONS_UNCHECKED: Warning, "mutations-unchecked",
        "headers that the service sets are not checked",
        "a value with a line break becomes an error somewhere downstream instead of one here",
        "set `validate_mutations: true`";
    SECRET_IN_LOG: Error, "secret-in-access-log",
        "the access log has a header that secrets are in",
        "it is written after they were put in",
        "take the header out of the format";
    BODY_IN_CHECK: Warning, "body-in-check",
        "bodies are sent to ext_authz",
        "the service does not read them: they cost memory, and those over the limit are answered 413",
        "take `with_request_body`, `includeRequestBodyInCheckRequest` or `bodyToExtAuth` out";

    // What the filters see.
    REQUEST_HEADERS_SKIPPED: Error, "request-headers-skipped",
        "ext_proc does not get the request's headers",
        "it cannot know whose request it is or where it goes, and denies",
        "set `request_header_mode: SEND`; in Envoy Gateway write `processingMode: {request: {}}`";
    TRAILERS_SKIPPED: Error, "streamed-without-trailers",
        "a body is streamed and its trailers are skipped",
        "with trailers the last chunk does not say so: what was held back to find references across chunks is lost or the request hangs",
        "set the trailer mode of the same direction to SEND; in Envoy Gateway use Buffered or FullDuplexStreamed";
    BODY_CUT_OFF: Error, "body-cut-off",
        "a body may be shown in part only",
        "in BUFFERED_PARTIAL what comes after the limit is never looked at",
        "use BUFFERED, or STREAMED with trailers";
    BODY_LIMIT_ABSENT: Warning, "body-limit-absent",
        "bodies are held as a whole, and nothing says how large they may be",
        "Envoy Gateway's default is 32 KiB: what is larger is answered 413",
        "set `connection.bufferLimit` in a ClientTrafficPolicy";
    MODE_OVERRIDE_REFUSED: Error, "mode-override-refused",
        "the service's configuration relies on phases that the filter does not let it ask for",
        "with `ext_proc.mode_override: true` it counts on being heeded, so bodies and answers that its rules are about pass unseen",
        "set `allow_mode_override: true` (`allowModeOverride`), or take `mode_override` out";
    MODE_OVERRIDE_MISSING: Warning, "mode-override-missing",
        "the service may not ask for the phases that its rules need",
        "bodies and answers are not shown to it, so rules about them refuse requests or do nothing",
        "set `allow_mode_override: true`";
    MODE_OVERRIDE_IGNORED: Warning, "mode-override-ignored",
        "the service's wishes about phases are ignored",
        "Envoy heeds no override in FULL_DUPLEX_STREAMED, nor with `send_body_without_waiting_for_header_response`",
        "start with NONE and let the service ask for more";
    DESTINATION_UNKNOWN: Error, "destination-unknown",
        "ext_proc is not told where the request goes",
        "policies bind secrets to clusters and routes, and a destination that is not known is denied",
        "add `xds.cluster_name` and `xds.route_name` to `request_attributes`";

    // When there is no answer.
    ABSENT_CLUSTER: Error, "absent-cluster",
        "there is no cluster of that name",
        "Envoy starts with it, and then answers every request with an error; older ones let ext_proc pass",
        "name a cluster that exists";
    SERVICE_NOT_HTTP2: Error, "service-not-http2",
        "the service is asked in HTTP/1.1",
        "gRPC needs HTTP/2: every request is answered 403 or 500",
        "set `http2_protocol_options`; name a Kubernetes port `grpc-…` or set `appProtocol: grpc`";
    AUTHZ_TIMEOUT: Warning, "authz-timeout",
        "no sensible bound on how long ext_authz may take",
        "Envoy's default of 200 ms is too short for a token review or a cold read, and Istio's of 600 s holds every request while the service is slow",
        "set `timeout` to 1 s or so, at most 10 s";
    RETRY_TOO_LATE: Warning, "retry-too-late",
        "ext_authz asks again when its time is over",
        "without a back-off of its own a retry waits up to a second, and a replica that is gone makes 503",
        "set `retry_back_off: {base_interval: 0.025s, max_interval: 0.1s}` in `grpc_service.retry_policy`";
    MESSAGE_TIMEOUT: Warning, "message-timeout",
        "no sensible bound on how long ext_proc may take for an answer",
        "the default of 200 ms is too short for a cold read of a secret store and gives 504, and none at all lets requests hang",
        "set `message_timeout` (`messageTimeout`) to 1 s or so, and `max_message_timeout` not below it";
    STREAM_TIMEOUT: Warning, "stream-timeout",
        "the gRPC stream of ext_proc ends before the request may",
        "the stream lives as long as the request: a bound on it cuts long ones off",
        "set `grpc_service.timeout: 0s` and bound single answers by `message_timeout`";
    OUTAGE_LOOKS_LIKE_DENIAL: Warning, "outage-looks-like-denial",
        "an outage of the service is answered 403",
        "callers take it for a denial and do not try again, and alarms stay silent",
        "set `status_on_error: {code: ServiceUnavailable}`; in Istio `statusOnError: \"503\"`";
    ADMIN_OPEN: Warning, "admin-open",
        "Envoy's admin page can be reached from elsewhere",
        "it shows all configuration, changes log levels to ones that print secrets, and stops the proxy",
        "bind it to 127.0.0.1 or a unix socket";

    // Istio.
    CUSTOM_BY_IDENTITY: Error, "custom-selects-by-identity",
        "a CUSTOM policy selects by who is calling",
        "Istio rejects it; where its webhook is missing, requests of all others are not checked at all",
        "select by `to.operation` and let the service decide who may";
    CUSTOM_WITHOUT_RULES: Error, "custom-without-rules",
        "a CUSTOM policy has no rules",
        "it never matches, so nothing is checked",
        "write `rules: [{}]` for everything";
    CUSTOM_DRY_RUN: Error, "custom-dry-run",
        "a CUSTOM policy is a dry run",
        "since Istio 1.30 that denies every request it matches",
        "take the annotation out, and try policies with `mode: Audit` or Envoy's shadow mode";
    CUSTOM_IN_AMBIENT: Error, "custom-in-ambient",
        "a CUSTOM policy in an ambient namespace is bound to no waypoint",
        "ztunnel does not know CUSTOM and waypoints look at `targetRefs` only: nothing is checked",
        "set `targetRefs`, and add an ALLOW policy that lets the waypoint alone reach the pods";
    WAYPOINT_BYPASSED: Error, "waypoint-bypassed",
        "pods can be reached without the waypoint that asks",
        "whoever connects to a pod's address is not asked about",
        "add an ALLOW policy for the same pods that names the waypoint's service account alone";
    CUSTOM_ON_SERVICE: Warning, "custom-on-service",
        "a CUSTOM policy is about the service's own port, too",
        "where the service has a sidecar every check waits for another check, and all is denied",
        "leave the service's namespace out of it, or its port: `to: [{operation: {notPorts: [\"9191\"]}}]`";
    TARGET_ABSENT: Error, "target-absent",
        "a policy is bound to something that is not there",
        "it holds nowhere, so nothing is asked",
        "correct the name or the namespace";
    CUSTOM_UNATTACHED: Error, "custom-unattached",
        "a CUSTOM policy is bound to a GatewayClass outside the root namespace",
        "waypoints look for such policies in the root namespace alone: nothing is checked",
        "move it to `istio-system`, or name the Gateway or Service";
    TWO_PROVIDERS: Error, "two-providers",
        "two providers are asked about one workload",
        "Istio denies what both match unless `PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS` is set (1.30)",
        "use one provider, or select apart";
    PROVIDER_MISSING: Error, "provider-missing",
        "the provider that a CUSTOM policy names is not in the mesh configuration",
        "what the policy matches is denied",
        "add it to `extensionProviders`, or correct the name";
    PROVIDER_NAME: Error, "provider-name",
        "a provider's name is none that Istio takes",
        "since 1.30 it has to be lower-case letters, digits and `-`, at most 63",
        "rename it, in the policies too";
    ENVOYFILTER_UNREFERENCED: Warning, "envoyfilter-unreferenced-service",
        "an EnvoyFilter uses a service that it does not announce",
        "gateways that get only clusters they use, and waypoints, do not have it: 500",
        "annotate it with `envoyfilter.istio.io/referenced-services: <namespace>/<host>`";
    ENVOYFILTER_CONTEXT: Error, "envoyfilter-context",
        "an EnvoyFilter has a context that is not applied",
        "istiod reads WAYPOINT and never applies it; what reaches a waypoint is SIDECAR_INBOUND with `targetRefs`",
        "on waypoints put secrets in with ext_authz (`ext_authz.inject`), which needs no EnvoyFilter";
    PROC_ON_ALL_EGRESS: Warning, "proc-on-all-egress",
        "ext_proc is asked about everything that leaves",
        "an HTTP_FILTER patch cannot choose hosts, so the service becomes part of every call to anyone",
        "insert it with `disabled: true` and enable it by a VIRTUAL_HOST patch for each destination";
    SIDECAR_TRIMS_SERVICE: Error, "sidecar-trims-service",
        "a Sidecar leaves the service's host out",
        "its cluster vanishes from the proxies: ext_authz gives 403, ext_proc 500",
        "add `<the service's namespace>/*` to `egress.hosts`";

    // Envoy Gateway.
    AUTHORIZATION_AFTER_PROC: Warning, "authorization-after-proc",
        "Envoy Gateway's own authorization runs after ext_proc",
        "a request that it refuses has had its secrets fetched already",
        "set `filterOrder` of EnvoyProxy so that `envoy.filters.http.rbac` stands before `envoy.filters.http.ext_proc`";
}
