//! Configurations that are refused, with the line that says why, and what the
//! defaults are.

use super::*;

#[track_caller]
fn parse(yaml: &str) -> Result<Config, ConfigError> {
    let environment = Environment::from([("HOME_REGION", "eu-central-1"), ("EMPTY", "")]);
    judged(yaml, Config::parse(yaml, Path::new("dir/vaultmux.yaml"), &environment))
}

/// What was read, once the JSON Schema has said the same about it.
#[track_caller]
fn judged(yaml: &str, read: Result<Config, ConfigError>) -> Result<Config, ConfigError> {
    schema::tests::agrees(yaml, read.as_ref().map(drop));
    read
}

const LOCAL: &str = "mode: development\nbackends: {local: {type: memory}}\n";

#[test]
fn what_is_wrong_is_named_by_file_line_and_key() {
    let with = |rest: &str| format!("{LOCAL}{rest}");
    let cases = [
        ("a: [", "dir/vaultmux.yaml:1: "),
        ("nonsense: 1\n", "dir/vaultmux.yaml:1: nonsense: unknown field `nonsense`"),
        ("mode: cluster\n", "dir/vaultmux.yaml: backends: at least one is needed"),
        ("mode: production\n", "dir/vaultmux.yaml:1: mode: unknown variant `production`"),
        ("mode: cluster\nmode: sidecar\n", "dir/vaultmux.yaml:2: duplicate mapping key: mode"),
        (
            "backends:\n  local: {type: memory}\n",
            "dir/vaultmux.yaml:2: backends.local: a memory backend keeps secrets outside any store",
        ),
        (
            "mode: sidecar\nidentity: {local: {namespace: a, service_account: b}}\nbackends:\n  local: {type: file, path: x}\n",
            "dir/vaultmux.yaml:4: backends.local: a file backend keeps secrets outside any store",
        ),
        (
            &with("audit:\n  decisions: all\n  sink: syslog\n"),
            "dir/vaultmux.yaml:5: audit.sink: \"syslog\" is neither stdout nor file:/PATH",
        ),
        (
            &with("audit:\n  sink: 'file:'\n"),
            "dir/vaultmux.yaml:4: audit.sink: \"file:\" is neither",
        ),
        (&with("audit: {}\n"), "dir/vaultmux.yaml:3: audit: missing field `sink`"),
        (
            &with("audit: {sink: stdout, decisions: some}\n"),
            "dir/vaultmux.yaml:3: audit.decisions: unknown variant `some`",
        ),
        (
            &with("audit: {sink: stdout, format: text}\n"),
            "dir/vaultmux.yaml:3: audit.format: unknown field `format`",
        ),
        (
            "backends:\n  x: {type: redis}\n",
            "dir/vaultmux.yaml:2: backends.x.type: unknown variant `redis`",
        ),
        ("backends:\n  X: {type: memory}\n", "dir/vaultmux.yaml:2: backends.X: "),
        (
            &with("listeners:\n  grpc: {address: nowhere}\n"),
            "dir/vaultmux.yaml:4: listeners.grpc.address: ",
        ),
        (
            &with("listeners:\n  http: {}\n"),
            "dir/vaultmux.yaml:4: listeners.http: unknown field `http`",
        ),
        (
            &with("listeners: {grpc: {address: 'unix:'}}\n"),
            "dir/vaultmux.yaml:3: listeners.grpc.address: ",
        ),
        (
            "mode: sidecar\nlisteners:\n  rest: {address: '0.0.0.0:80'}\n",
            "dir/vaultmux.yaml:3: listeners.rest.address: \"0.0.0.0:80\" is not a loopback",
        ),
        (
            &with("listeners:\n  grpc:\n    address: '127.0.0.1:1'\n    peer_uids: [1337]\n"),
            "dir/vaultmux.yaml:6: listeners.grpc.peer_uids: only unix sockets tell",
        ),
        (
            &with(
                "listeners:\n  rest:\n    health_on_all_addresses: true\n    address: '0.0.0.0:1'\n",
            ),
            "dir/vaultmux.yaml:5: listeners.rest.health_on_all_addresses: goes with a loopback",
        ),
        (
            &with("listeners:\n  rest: {health_on_all_addresses: true, address: 'unix:a'}\n"),
            "dir/vaultmux.yaml:4: listeners.rest.health_on_all_addresses: goes with a loopback",
        ),
        (
            &with(
                "listeners:\n  rest:\n    tls: {cert_file: a, key_file: b}\n    health_on_all_addresses: true\n",
            ),
            "dir/vaultmux.yaml:6: listeners.rest.health_on_all_addresses: goes with a loopback",
        ),
        (
            &with("listeners:\n  rest:\n    peer_uids: []\n"),
            "dir/vaultmux.yaml:5: listeners.rest.peer_uids: only unix sockets tell",
        ),
        (
            &with("listeners: {grpc: {address: 'unix:a', peer_uids: [-1]}}\n"),
            "dir/vaultmux.yaml:3: listeners.grpc.peer_uids",
        ),
        (
            &with(
                "listeners:\n  rest:\n    tls:\n      cert_file: a\n      key_file: b\n      client_certificate: optional\n",
            ),
            "dir/vaultmux.yaml:8: listeners.rest.tls.client_certificate: needs client_ca_file",
        ),
        (
            &with(
                "listeners: {rest: {tls: {cert_file: a, key_file: b, client_ca_file: c, client_certificate: maybe}}}\n",
            ),
            "dir/vaultmux.yaml:3: listeners.rest.tls.client_certificate: unknown variant `maybe`",
        ),
        (
            &with("listeners: {rest: {trusted_peers: [unix]}}\n"),
            "dir/vaultmux.yaml:3: listeners.rest.trusted_peers: unknown field",
        ),
        (
            &with("listeners: {admin: {address: 'unix:a', peer_uids: [1]}}\n"),
            "dir/vaultmux.yaml:3: listeners.admin.peer_uids: unknown field",
        ),
        (
            &with("listeners:\n  grpc:\n    address: '127.0.0.1:1'\n    trusted_peers: []\n"),
            "dir/vaultmux.yaml:6: listeners.grpc.trusted_peers: an empty list",
        ),
        (
            &with(
                "listeners:\n  grpc:\n    address: '127.0.0.1:1'\n    trusted_peers:\n      - 10.0.0.0/8\n      - 10.0.0.1/8\n",
            ),
            "dir/vaultmux.yaml:8: listeners.grpc.trusted_peers: \"10.0.0.1/8\" has bits set",
        ),
        (
            &with(
                "listeners: {grpc: {address: '127.0.0.1:1', trusted_peers: ['spiffe://a/ns/b/sa/c*']}}\n",
            ),
            "dir/vaultmux.yaml:3: listeners.grpc.trusted_peers: \"spiffe://a/ns/b/sa/c*\" has `*`",
        ),
        (
            &with(
                "listeners: {grpc: {address: '127.0.0.1:1', trusted_peers: ['spiffe://a/ns/b/sa/*']}}\n",
            ),
            "dir/vaultmux.yaml:3: listeners.grpc.trusted_peers: \"spiffe://a/ns/b/sa/*\" can match nobody: without tls.client_ca_file",
        ),
        (
            &with("listeners: {grpc: {address: '127.0.0.1:1', trusted_peers: [unix]}}\n"),
            "dir/vaultmux.yaml:3: listeners.grpc.trusted_peers: \"unix\" can match nobody: this listener",
        ),
        (
            &with("listeners: {grpc: {address: 'unix:a', trusted_peers: [10.0.0.0/8]}}\n"),
            "dir/vaultmux.yaml:3: listeners.grpc.trusted_peers: \"10.0.0.0/8\" can match nobody: a unix socket",
        ),
        (
            &with("identity:\n  trust_domains: []\n"),
            "dir/vaultmux.yaml:4: identity.trust_domains: ",
        ),
        (
            &with("identity:\n  trust_domains: [Cluster.Local]\n"),
            "dir/vaultmux.yaml:4: identity.trust_domains: ",
        ),
        (
            "identity:\n  local: {namespace: a, service_account: b}\n",
            "dir/vaultmux.yaml:2: identity.local: only sidecar and development mode",
        ),
        (&with("identity:\n  grant: {ttl: 10ms}\n"), "dir/vaultmux.yaml:4: identity.grant.ttl: "),
        (
            &with("default_backend: other\n"),
            "dir/vaultmux.yaml:3: default_backend: \"other\" is not one",
        ),
        (&with("routes:\n  - {prefix: gcp, backend: local}\n"), "dir/vaultmux.yaml:4: routes: "),
        (
            &with("cache: {ttl: soon}\n"),
            "dir/vaultmux.yaml:3: cache.ttl: \"soon\" is not a duration",
        ),
        (
            &with("cache: {max_bytes: lots}\n"),
            "dir/vaultmux.yaml:3: cache.max_bytes: \"lots\" is not a size",
        ),
        (&with("limits: {backend_timeout: 0}\n"), "dir/vaultmux.yaml:3: limits.backend_timeout: "),
        (
            &with("limits: {backend_concurrency: 0}\n"),
            "dir/vaultmux.yaml:3: limits.backend_concurrency: 0 is not between",
        ),
        (
            &with("limits: {refreshes_per_minute: 0}\n"),
            "dir/vaultmux.yaml:3: limits.refreshes_per_minute: must be at least 1",
        ),
        (&with("limits: {connections: 0}\n"), "dir/vaultmux.yaml:3: limits.connections: 0 is not"),
        (
            &with("limits: {header_timeout: 0}\n"),
            "dir/vaultmux.yaml:3: limits.header_timeout: must be longer than 0",
        ),
        (
            &with("limits: {idle_timeout: 0}\n"),
            "dir/vaultmux.yaml:3: limits.idle_timeout: must be longer than 0",
        ),
        (
            &with("limits: {watch_heartbeat: 500ms}\n"),
            "dir/vaultmux.yaml:3: limits.watch_heartbeat: must be 1s or longer",
        ),
        (
            &with("webhooks:\n  a: {type: event_grid, backends: [local], key: canary-short}\n"),
            "dir/vaultmux.yaml:4: webhooks.a: key must have 16 characters or more",
        ),
        (
            &with("webhooks:\n  a: {type: event_grid, backends: [local]}\n"),
            "dir/vaultmux.yaml:4: webhooks.a: a key or key_file is needed",
        ),
        (
            &with(
                "webhooks:\n  a: {type: event_grid, backends: [local], key: canary-0123456789, key_file: a}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a: key and key_file exclude each other",
        ),
        (
            &with(
                "webhooks:\n  a: {type: event_bridge, backends: [local], key_file: a, header: x, user: bridge}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a: header and user exclude each other",
        ),
        (
            &with(
                "webhooks:\n  a: {type: event_bridge, backends: [local], key_file: a, header: 'x y'}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a: header \"x y\" is no name of a header",
        ),
        (
            &with("webhooks:\n  a: {type: event_grid, backends: [], key_file: a}\n"),
            "dir/vaultmux.yaml:4: webhooks.a: backends must name at least one",
        ),
        (
            &with("webhooks:\n  a: {type: event_grid, backends: [other], key_file: a}\n"),
            "dir/vaultmux.yaml:4: webhooks.a: \"other\" is not one of the backends",
        ),
        (
            &with("webhooks:\n  A_b: {type: event_grid, backends: [local], key_file: a}\n"),
            "dir/vaultmux.yaml:4: webhooks.A_b: a webhook's name is",
        ),
        (
            &with("webhooks:\n  a: {type: pub_sub, backends: [local], audience: '', email: b}\n"),
            "dir/vaultmux.yaml:4: webhooks.a: audience and email must not be empty",
        ),
        (
            &with(
                "webhooks:\n  a: {type: pub_sub, backends: [local], audience: a, email: b, keys: cluster}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a: keys: ",
        ),
        (
            &with(
                "webhooks:\n  a: {type: pub_sub, backends: [local], audience: a, email: b, keys: 'http://keys.test'}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a: keys: ",
        ),
        (
            &with(
                "webhooks:\n  a: {type: event_grid, backends: [local], key_file: a, header: x}\n",
            ),
            "dir/vaultmux.yaml:4: webhooks.a",
        ),
        (
            &with("webhooks:\n  a: {type: pager, backends: [local]}\n"),
            "dir/vaultmux.yaml:4: webhooks.a",
        ),
        (
            &with("cache:\n  overrides:\n    - {match: db/, ttl: 5s}\n"),
            "dir/vaultmux.yaml:5: cache.overrides.match: \"db/\" does not begin with one of",
        ),
        (
            &with("cache:\n  overrides:\n    - {match: local/db, ttl: 5s}\n"),
            "dir/vaultmux.yaml:5: cache.overrides.match: prefix \"db\" must end in one of",
        ),
        (
            &with("failover:\n  local: [elsewhere]\n"),
            "dir/vaultmux.yaml:4: failover.local: \"elsewhere\" is not one of the backends",
        ),
        (
            &with("failover:\n  local: [local]\n"),
            "dir/vaultmux.yaml:4: failover.local: \"local\" is there already",
        ),
        (
            &with("secret_routes:\n  - {hosts: [], prefix: /a}\n"),
            "dir/vaultmux.yaml:4: secret_routes: ",
        ),
        (
            &with("secret_routes:\n  - {hosts: [a], prefix: a}\n"),
            "dir/vaultmux.yaml:4: secret_routes: ",
        ),
        (
            &with("ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}}\n"),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: set_headers, basic, query, hmac,",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, set_headers: [{name: x, value: '{{secret://local/k}}'}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: match needs hosts or clusters",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, query: {a=b: '{{secret://local/k}}'}}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: query: \"a=b\" is not of letters,",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, query: {key: plain}}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: query.key: value holds no",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, query: {key: 'a b{{secret://local/k}}'}}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: query.key: text around",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h], ports: [0]}, set_headers: [{name: x, value: plain}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: match.ports: 0 is not a port",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h], schemes: [ftp]}, set_headers: [{name: x, value: plain}]}\n",
            ),
            "dir/vaultmux.yaml:5:",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, set_headers: [{name: x, value: plain}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: x: value holds no",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, set_headers: [{name: x, value: '{{secret://none/k}}'}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: set_headers.x: unknown backend",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, set_headers: [{name: host, value: '{{secret://local/k}}'}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: set_headers: host cannot be set",
        ),
        (
            "mode: development\nbackends:\n  l:\n    type: memory\n    secrets:\n      ../x: text\n",
            "dir/vaultmux.yaml:4: backends.l: secrets.../x: secret name cannot contain '..'",
        ),
        (
            "mode: development\nbackends: {l: {type: memory, secrets: {a: 4711}}}\n",
            "dir/vaultmux.yaml:2: backends.l: a secret must be text: put it in quotes",
        ),
        (
            &with("limits: {backend_timeout: 18446744073709551615s}\n"),
            "dir/vaultmux.yaml:3: limits.backend_timeout: \"18446744073709551615s\" is longer than a year",
        ),
        (&with("ext_authz: {inject: true, more: 1}\n"), "dir/vaultmux.yaml:3: ext_authz"),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['10.0.0.0/8'], hosts: [a], cluster: c}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: proxies needs SPIFFE IDs, and nothing else",
        ),
        (
            &with("ext_authz:\n  destinations:\n    - {proxies: [], hosts: [a], cluster: c}\n"),
            "dir/vaultmux.yaml:5: ext_authz.destinations: proxies needs SPIFFE IDs",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g/x'], hosts: [a], cluster: c}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: proxies: ",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: [], cluster: c}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: hosts needs at least one",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: ['*'], cluster: c}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: hosts: \"*\" is not a host name",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: [A.test], cluster: c}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: hosts: \"A.test\" is not a host name",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: [a]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: needs cluster or route",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: [a], cluster: ''}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations: cluster and route are names",
        ),
        (
            &with(
                "ext_authz:\n  destinations:\n    - {proxies: ['spiffe://cluster.local/ns/e/sa/g'], hosts: [a], clusters: [c]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_authz.destinations",
        ),
        (
            &with("ext_proc: {max_message_timeout: 150ms}\n"),
            "dir/vaultmux.yaml:3: ext_proc.max_message_timeout: must be longer than message_budget",
        ),
        (
            &with("ext_proc: {suspect_statuses: [401, 302]}\n"),
            "dir/vaultmux.yaml:3: ext_proc.suspect_statuses: 302 is not between 400 and 599",
        ),
        (
            &with("ext_proc:\n  substitutions:\n    - {name: a, match: {hosts: [h]}}\n"),
            "dir/vaultmux.yaml:5: ext_proc.substitutions.a: surfaces, require or redact is needed",
        ),
        (
            &with("ext_proc:\n  substitutions:\n    - {name: a, surfaces: {json: inert}}\n"),
            "dir/vaultmux.yaml:5: ext_proc.substitutions.a: match needs hosts or clusters",
        ),
        (
            &with(
                "ext_proc:\n  substitutions:\n    - {name: a, match: {hosts: [h]}, require: true}\n    - {name: a, match: {hosts: [h]}, redact: true}\n",
            ),
            "dir/vaultmux.yaml:6: ext_proc.substitutions.a: another substitution has this name",
        ),
        (
            &with(
                "ext_proc:\n  substitutions:\n    - {name: a, match: {hosts: [h]}, surfaces: {xml: inert}}\n",
            ),
            "dir/vaultmux.yaml:5: ",
        ),
        (
            &with(
                "ext_proc:\n  substitutions:\n    - {name: a, match: {hosts: [h]}, surfaces: {json: maybe}}\n",
            ),
            "dir/vaultmux.yaml:5: ",
        ),
        (
            &with("ext_proc:\n  aliases:\n    - {alias: short, reference: 'secret://local/k'}\n"),
            "dir/vaultmux.yaml:5: ext_proc.aliases: an alias is 12 to 512 letters",
        ),
        (
            &with("ext_proc:\n  aliases:\n    - {alias: long-enough-alias, reference: local/k}\n"),
            "dir/vaultmux.yaml:5: ext_proc.aliases: secret reference is not of the form",
        ),
        (
            &with(
                "ext_proc:\n  aliases:\n    - {alias: long-enough-alias, reference: 'secret://local/k'}\n    - {alias: a-long-enough-alias-2, reference: 'secret://local/k'}\n",
            ),
            "dir/vaultmux.yaml:6: ext_proc.aliases: alias \"long-enough-alias\" is a part of another",
        ),
        (
            &with("ext_proc: {body_limit: 16MiB}\n"),
            "dir/vaultmux.yaml:3: ext_proc.body_limit: cannot be more than 15MiB",
        ),
        (
            &with("ext_proc: {duplex_budget: 0}\n"),
            "dir/vaultmux.yaml:3: ext_proc.duplex_budget: must be longer than 0",
        ),
        (&with("ext_proc: {modes: {request_body: SOMEHOW}}\n"), "dir/vaultmux.yaml:3: "),
        (
            &with("ext_proc: {message_budget: 0}\n"),
            "dir/vaultmux.yaml:3: ext_proc.message_budget: must be longer than 0",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, set_headers: [{name: x-vaultmux-principal, value: '{{secret://local/k}}'}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: set_headers: x-vaultmux-principal is the service's own",
        ),
        (
            &with(
                "ext_proc:\n  injections:\n    - {name: a, match: {hosts: [h]}, set_headers: [{name: transfer-encoding, value: '{{secret://local/k}}'}]}\n",
            ),
            "dir/vaultmux.yaml:5: ext_proc.injections.a: set_headers: transfer-encoding cannot be set",
        ),
        (
            "mode: sidecar\nbackends: {aws: {type: aws_secrets_manager, region: us-east-1}}\n",
            "dir/vaultmux.yaml: identity.local: is needed, because there is no service account token",
        ),
        ("cache:\n  ttl: ${NOT_SET}\n", "dir/vaultmux.yaml:2: "),
    ];
    for (yaml, expected) in cases {
        let error = parse(yaml).expect_err(yaml).to_string();
        assert!(
            error.starts_with(expected),
            "{error}\n  does not start with\n{expected}\n  for\n{yaml}"
        );
    }
}

#[test]
fn what_is_wrong_about_signers_is_named_by_line_and_key() {
    let hmac = "hmac: {key: '{{secret://local/k}}', message: '{method}', header: x-s}";
    let hmac_with = |from: &str, to: &str| {
        assert!(hmac.contains(from));
        hmac.replacen(from, to, 1)
    };
    let timed = hmac_with("{method}", "{timestamp}{method}");
    let oauth2 = "oauth2: {token_url: 'https://i.test/token', client_id: me, \
                  client_secret: '{{secret://local/k}}'}";
    let oauth2_with = |from: &str, to: &str| {
        assert!(oauth2.contains(from));
        oauth2.replacen(from, to, 1)
    };
    let app = "github_app: {app_id: '1', private_key: '{{secret://local/k}}'}";
    let with = |more: &str| app.replacen("app_id", &format!("{more}, app_id"), 1);
    let mut cases = vec![
        (hmac_with("{method}", "text"), "hmac.message: signs nothing of the request"),
        (hmac_with("{method}", "{timestamp}"), "hmac.message: signs nothing of the request"),
        (hmac_with("{method}", "{nonce}"), "hmac.message: {nonce} is none of {method},"),
        (hmac_with("{method}", "{method"), "hmac.message: has a brace that is not closed"),
        (hmac_with("'{{secret://local/k}}'", "plain"), "hmac.key: value holds no {{secret"),
        (
            hmac_with("'{{secret://local/k}}'", "'k={{secret://local/k}}'"),
            "hmac.key: must be one reference alone",
        ),
        (hmac_with("local/k", "none/k"), "hmac.key: unknown backend"),
        (hmac_with("x-s", "host"), "hmac.header: host cannot be set"),
        (hmac_with("x-s", "x-vaultmux-s"), "hmac.header: x-vaultmux-s is the service's own"),
        (hmac_with("x-s", "'a b'"), "hmac.header: \"a b\" is not a header name"),
        (
            hmac_with("x-s", "x-s, timestamp: unix"),
            "hmac.timestamp: the message has no {timestamp}",
        ),
        (
            timed.replacen("x-s", "x-s, timestamp_header: x-s, timestamp: unix", 1),
            "hmac.timestamp_header: x-s is the signature's",
        ),
        (
            oauth2_with("https://", "http://"),
            "oauth2.token_url: \"http://i.test/token\" would send secrets in clear text",
        ),
        (
            oauth2_with("https://i.test/token", "i.test"),
            "oauth2.token_url: \"i.test\" is not an http(s) URL",
        ),
        (
            oauth2_with("token'", "token?a=b'"),
            "oauth2.token_url: \"https://i.test/token?a=b\" is not an http(s) URL",
        ),
        (
            oauth2_with("'{{secret://local/k}}'", "plain"),
            "oauth2.client_secret: value holds no {{secret",
        ),
        (oauth2_with("me,", "'',"), "oauth2.client_id: cannot be empty"),
        (oauth2_with("me,", "me, scope: \"a\\nb\","), "oauth2.scope: must be text without control"),
        (
            oauth2_with("me,", "me, header: content-length,"),
            "oauth2.header: content-length cannot be set",
        ),
        (with("repositories: [a]"), "github_app.installation_id: repositories and permissions"),
        (
            with("permissions: {contents: read}"),
            "github_app.installation_id: repositories and permissions",
        ),
        (
            with("api_url: 'http://git.test'"),
            "github_app.api_url: \"http://git.test\" would send secrets",
        ),
        (format!("{oauth2}, {app}"), "authorization is set twice"),
        (
            format!("{oauth2}, basic: {{username: a, password: '{{{{secret://local/k}}}}'}}"),
            "authorization is set twice",
        ),
    ];
    if cfg!(feature = "aws") {
        let aws = "sigv4: {access_key_id: A, secret_access_key: '{{secret://local/k}}', \
                   regions: [us-east-1], services: [s3]}";
        let edit = |from: &str, to: &str| aws.replacen(from, to, 1);
        cases.extend([
            (edit("[us-east-1]", "[]"), "sigv4.regions: cannot be empty"),
            (edit("[s3]", "[]"), "sigv4.services: cannot be empty"),
            (edit("[s3]", "['*']"), "sigv4.services: \"*\" is none"),
            (edit("'{{secret://local/k}}'", "plain"), "sigv4.secret_access_key: value holds no"),
            (
                edit("regions", "session_token: plain, regions"),
                "sigv4.session_token: value holds no",
            ),
            (format!("{aws}, {app}"), "authorization is set twice"),
        ]);
    }
    for (signer, expected) in cases {
        let yaml = format!(
            "{LOCAL}ext_proc:\n  injections:\n    - {{name: a, match: {{hosts: [h]}}, {signer}}}\n"
        );
        let error = parse(&yaml).expect_err(&yaml).to_string();
        let expected = format!("dir/vaultmux.yaml:5: ext_proc.injections.a: {expected}");
        assert!(error.starts_with(&expected), "{error}\n  does not start with\n{expected}");
    }
    for signer in [hmac, timed.as_str(), oauth2, app, &format!("{hmac}, {oauth2}")] {
        let yaml = format!(
            "{LOCAL}ext_proc:\n  injections:\n    - {{name: a, match: {{hosts: [h]}}, {signer}}}\n"
        );
        parse(&yaml).expect("valid");
    }
    let unknown = oauth2_with("client_id", "nonsense: 1, client_id");
    let yaml = format!(
        "{LOCAL}ext_proc:\n  injections:\n    - {{name: a, match: {{hosts: [h]}}, {unknown}}}\n"
    );
    let error = parse(&yaml).expect_err(&yaml).to_string();
    assert!(error.contains(":5: ") && error.contains("unknown field `nonsense`"), "{error}");
}

#[test]
fn what_is_wrong_about_tokens_is_named_by_line_and_key() {
    let audiences = "audiences: [vaultmux]";
    let with = |rest: &str| format!("{audiences}\n    {rest}");
    for (settings, line, expected) in [
        ("verify: both", 5, ": missing field `audiences`"),
        ("audiences: vaultmux", 5, ".audiences: "),
        ("audiences: []", 5, ".audiences: at least one is needed"),
        ("audiences: ['']", 5, ".audiences: an audience is a text"),
        ("audiences: [\"a\\u0000b\"]", 5, ".audiences: an audience is a text"),
        (&with("refuse_audiences: [a, vaultmux]"), 5, ".audiences: an audience that is refused"),
        (&with("audience: a"), 6, ".audience: unknown field"),
        (&with("verify: none"), 6, ".verify: unknown variant `none`"),
        (&with("verify: token-review"), 6, ".verify: unknown variant"),
        (
            &with("verify: token_review\n    jwks: {source: cluster}"),
            7,
            ".jwks.source: no keys are used",
        ),
        (
            &with("verify: token_review\n    jwks: {ca_file: ca.pem}"),
            7,
            ".jwks.source: no keys are used",
        ),
        (&with("jwks: {key: k}"), 6, ".jwks.key: unknown field"),
        (&with("jwks: {source: ''}"), 6, ".jwks.source: \"\" is neither"),
        (&with("jwks: {source: 'file:'}"), 6, ".jwks.source: \"file:\" is neither"),
        (&with("jwks: {source: keys.json}"), 6, ".jwks.source: \"keys.json\" is neither"),
        (&with("jwks: {source: 'ftp://a'}"), 6, ".jwks.source: \"ftp://a\" is neither"),
        (&with("jwks: {source: 'https://'}"), 6, ".jwks.source: address \"https://\" is not"),
        (
            &with("jwks: {source: 'http://a.example', issuer: i}"),
            6,
            ".jwks.source: address \"http://a.example\" could be forged on the way",
        ),
        (
            &with("jwks: {source: 'https://a:canary@b', issuer: i}"),
            6,
            ".jwks.source: address must not have a user or password",
        ),
        (&with("jwks: {source: 'https://a'}"), 6, ".jwks.issuer: is needed"),
        (&with("jwks: {source: 'file:a'}"), 6, ".jwks.issuer: is needed"),
        (&with("jwks: {source: 'file:a', ca_file: b, issuer: i}"), 6, ".jwks.ca_file: is for"),
        (&with("jwks: {ca_file: b}"), 6, ".jwks.ca_file: is for a source at https"),
        (&with("context: other"), 6, ".context: is one of a kubeconfig, and none"),
        (&with("cache: {ttl: 999ms}"), 6, ".cache.ttl: must be from 1s to 1h"),
        (&with("cache: {ttl: 61m}"), 6, ".cache.ttl: must be from 1s to 1h"),
        (&with("cache: {max_entries: 0}"), 6, ".cache.max_entries: must be at least 1"),
        (&with("cache: {negative_ttl: soon}"), 6, ".cache.negative_ttl: \"soon\" is not"),
        (&with("cache: {stale: 1s}"), 6, ".cache.stale: unknown field"),
        (&with("max_token_lifetime: 599s"), 6, ".max_token_lifetime: must be at least 10m"),
        (
            &with("verify: jwks\n    reviews: {per_second: 1, burst: 1}"),
            7,
            ".reviews: there are none with verify: jwks",
        ),
        (&with("reviews: {per_second: 0, burst: 1}"), 6, ".reviews.per_second: "),
        (&with("reviews: {per_second: 1}"), 6, ".reviews: missing field `burst`"),
        (&with("watch: sometimes"), 6, ".watch: "),
    ] {
        let yaml = format!("{LOCAL}identity:\n  service_account_tokens:\n    {settings}\n");
        let error = parse(&yaml).expect_err(settings).to_string();
        let expected =
            format!("dir/vaultmux.yaml:{line}: identity.service_account_tokens{expected}");
        assert!(error.starts_with(&expected), "{error}\n  is not\n{expected}\n  for {settings}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn what_is_wrong_about_proxies_is_named_by_line_and_key() {
    let trusted = "trusted_proxies: [10.0.0.0/8]";
    for (settings, line, expected) in [
        ("position: last".to_owned(), 5, ": missing field `trusted_proxies`"),
        ("trusted_proxies: []".to_owned(), 5, ".trusted_proxies: an empty list"),
        (
            "trusted_proxies: [unix, 10.0.0.1/8]".to_owned(),
            5,
            ".trusted_proxies: \"10.0.0.1/8\" has bits set",
        ),
        (
            "trusted_proxies: ['spiffe://a/ns/*/sa/b']".to_owned(),
            5,
            ".trusted_proxies: \"spiffe://a/ns/*/sa/b\" has `*`",
        ),
        (format!("{trusted}\n    position: first"), 5, ".position: \"first\" is not one of last,"),
        (
            format!("{trusted}\n    position: before_last"),
            5,
            ".position: before_last needs the SPIFFE ID",
        ),
        (format!("{trusted}\n    mode: SANITIZE"), 6, ".mode: unknown field"),
    ] {
        let yaml = format!("{LOCAL}identity:\n  forwarded_client_cert:\n    {settings}\n");
        let error = parse(&yaml).expect_err(&settings).to_string();
        let expected =
            format!("dir/vaultmux.yaml:{line}: identity.forwarded_client_cert{expected}");
        assert!(error.starts_with(&expected), "{error}\n  is not\n{expected}\n  for {settings}");
    }
}

#[test]
fn an_audience_that_every_pod_has_a_token_for_is_warned_of() {
    let elsewhere = "verify: jwks, jwks: {source: 'https://a', issuer: 'https://i'}";
    for (settings, warned) in [
        ("audiences: ['https://kubernetes.default.svc']", true),
        ("audiences: [vaultmux, 'https://kubernetes.default.svc.cluster.local']", true),
        ("audiences: ['https://kubernetes.default']", true),
        ("audiences: [kubernetes.default.svc]", true),
        (&format!("audiences: ['https://i'], {elsewhere}"), true),
        (&format!("audiences: ['https://j'], {elsewhere}"), false),
        ("audiences: [vaultmux], refuse_audiences: ['https://kubernetes.default.svc']", false),
        ("audiences: ['https://vaultmux.default.svc']", false),
    ] {
        let yaml = format!("{LOCAL}identity: {{service_account_tokens: {{{settings}}}}}\n");
        let config = parse(&yaml).expect(settings);
        let warnings = config.warnings();
        let found = warnings.iter().any(|warning| warning.contains("the API server's own"));
        assert_eq!(found, warned, "{settings}: {warnings:?}");
    }
}

#[test]
fn an_error_is_one_line_and_shows_no_secret() {
    let yaml = "mode: development\nbackends:\n  l:\n    type: memory\n    secrets: {a: canary}\n    b: 1\n";
    let error = parse(yaml).expect_err("unknown key").to_string();
    assert!(!error.contains('\n') && !error.contains("canary"), "{error}");
    assert!(error.contains("unknown field `b`"), "{error}");
    let config = parse("mode: development\nbackends: {l: {type: memory, secrets: {a: canary}}}\n");
    let shown = format!("{:?}", config.expect("valid"));
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn defaults_are_closed_and_local() {
    let config = parse(LOCAL).expect("valid");
    let listeners = &config.listeners;
    assert_eq!(listeners.grpc.address.to_string(), "127.0.0.1:9191");
    assert_eq!(listeners.rest.address.to_string(), "127.0.0.1:8080");
    assert_eq!(listeners.admin.address.to_string(), "127.0.0.1:9090");
    assert!(!listeners.rest.health_on_all_addresses);
    assert_eq!(config.identity.trust_domains[0].as_str(), "cluster.local");
    assert_eq!(config.identity.local, None);
    assert_eq!(config.catalog.default_backend().map(BackendName::as_str), Some("local"));
    assert_eq!(config.resolver.cache.lifetimes.ttl, Duration::from_secs(60));
    assert_eq!(config.resolver.cache.lifetimes.negative_ttl, Duration::from_secs(5));
    assert_eq!(config.resolver.cache.max_bytes, 64 << 20);
    assert_eq!(config.limits.request_body, 1 << 20);
    assert_eq!(config.limits.backend_timeout, Duration::from_secs(5));
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert!(!config.listeners.require_request_header);
    assert_eq!(config.secret_routes, SecretRoutes::default(), "the caller chooses the host");
}

#[test]
fn a_client_authority_makes_certificates_required_unless_it_says_otherwise() {
    for (more, required) in [
        ("", true),
        (", client_certificate: required", true),
        (", client_certificate: optional", false),
    ] {
        let files = "cert_file: a, key_file: b, client_ca_file: c";
        let yaml = format!(
            "{LOCAL}listeners: {{grpc: {{address: 'unix:g', peer_uids: [1337], \
             trusted_peers: [unix, 'spiffe://a/ns/b/sa/*'], tls: {{{files}{more}}}}}}}\n"
        );
        let grpc = parse(&yaml).expect("valid").listeners.grpc;
        let client_ca = grpc.tls.expect("configured").client_ca;
        assert_eq!(client_ca, Some(ClientCa { file: "dir/c".into(), required }), "{more}");
        assert_eq!(grpc.peer_uids, [1337]);
        assert!(grpc.trusted_peers.is_some_and(|peers| peers.name_unix()));
    }
}

#[test]
fn an_override_keeps_what_it_does_not_say() {
    let yaml = format!(
        "{LOCAL}cache: {{ttl: 2m, stale_if_error: 0, overrides: [{{match: local/db/, ttl: 5s}}]}}\n"
    );
    let cache = parse(&yaml).expect("valid").resolver.cache;
    assert_eq!(cache.lifetimes.ttl, Duration::from_secs(120));
    let found = &cache.overrides[0];
    assert_eq!((found.backend.as_str(), found.prefix.as_str()), ("local", "db/"));
    assert_eq!(found.lifetimes.ttl, Duration::from_secs(5));
    assert_eq!(found.lifetimes.stale_if_error, Duration::ZERO);
    assert_eq!(found.lifetimes.stale_while_revalidate, Duration::from_secs(30));
}

#[cfg(feature = "kubernetes")]
#[test]
fn a_kubernetes_namespace_is_one_or_the_callers_own() {
    use crate::backends::kubernetes::{KubernetesSettings, NamespaceScope};
    let backend = |rest: &str| {
        parse(&format!("backends:\n  k8s:\n    type: kubernetes_secrets\n    {rest}\n"))
    };
    let fixed = || NamespaceScope::Fixed("shop".into());
    let elsewhere = "namespace: shop\n    kubeconfig: k/c\n    context: x";
    for (rest, namespace, kubeconfig, context) in [
        (r#"namespace: "{namespace}""#, NamespaceScope::OfCaller, None, None),
        ("namespace: shop", fixed(), None, None),
        (elsewhere, fixed(), Some("dir/k/c".into()), Some("x".to_owned())),
    ] {
        let config = backend(rest).expect(rest);
        let expected = KubernetesSettings { namespace, kubeconfig, context };
        assert_eq!(config.backends[0].1, BackendSettings::Kubernetes(expected));
        let grammar = config.backends[0].1.grammar();
        for (name, valid) in [("db/password", true), ("db", false), ("db/a/b", false)] {
            let canonical = grammar.canonical(name, crate::secret::NameEncoding::Plain);
            assert_eq!(canonical.is_ok(), valid, "{name}");
        }
    }
    for (rest, expected) in [
        ("kubeconfig: x", "missing field `namespace`"),
        ("namespace: '{namespace}-x'", "namespace \"{namespace}-x\" is neither"),
        ("namespace: '{Namespace}'", "is neither"),
        ("namespace: '{serviceAccount}'", "is neither"),
        ("namespace: ''", "is neither"),
        ("namespace: Shop", "is neither"),
        ("namespace: a.b", "is neither"),
        ("namespace: ../a", "is neither"),
        ("namespace: a\n    context: x", "context is one of a kubeconfig"),
        ("namespace: a\n    token: x", "unknown field `token`"),
    ] {
        let error = backend(rest).expect_err(rest).to_string();
        assert!(error.contains("backends.k8s") && error.contains(expected), "{error}");
    }
}

#[cfg(feature = "aws")]
#[test]
fn a_sidecar_asks_local_callers_for_the_request_header() {
    let sidecar = |rest: &str| {
        let yaml = format!(
            "mode: sidecar\n{rest}identity: {{local: {{namespace: a, service_account: b}}}}\n\
             backends: {{aws: {{type: aws_secrets_manager, region: us-east-1}}}}\n"
        );
        parse(&yaml).expect("valid").listeners.require_request_header
    };
    assert!(sidecar(""));
    assert!(sidecar("listeners: {rest: {address: '127.0.0.1:0'}}\n"));
    assert!(!sidecar("listeners: {rest: {require_request_header: false}}\n"));
}

#[test]
fn paths_are_relative_to_the_file_and_variables_are_expanded() {
    let yaml = format!(
        "{LOCAL}policies: [policies/, /etc/p]\nlisteners: {{grpc: {{address: 'unix:run/g.sock'}}}}\n\
         telemetry:\n  log:\n    level: ${{LEVEL:-debug}}\n"
    );
    let config = parse(&yaml).expect("valid");
    assert_eq!(config.policies, [PathBuf::from("dir/policies/"), PathBuf::from("/etc/p")]);
    assert_eq!(config.listeners.grpc.address, Address::Unix("dir/run/g.sock".into()));
    assert_eq!(config.log.level, "debug");
}

#[test]
fn the_embedded_development_setup_is_valid() {
    let config = Config::development(&Environment::default());
    assert_eq!(config.mode, Mode::Development);
    crate::app::load_policies(&config).expect("the embedded policies are valid");
}

#[cfg(feature = "aws")]
#[test]
fn aws_settings_that_aws_would_refuse_are_named() {
    use crate::backends::aws::AssumeRole;
    let role = "assume_role: 'arn:aws:iam::1:role/mesh'";
    let aws =
        |rest: &str| parse(&format!("backends:\n  a: {{type: aws_secrets_manager, {rest}}}\n"));
    let long = format!("tags: {{k: {}}}", "v".repeat(257));
    for (rest, expected) in [
        ("prefix: 'arn:aws:'", "prefix \"arn:aws:\" is no part"),
        ("region: 'eu.evil.test/x'", "region \"eu.evil.test/x\" is not a region"),
        ("endpoint_url: 'ftp://x'", "endpoint_url \"ftp://x\" is not an http(s) URL"),
        ("assume_role: mesh", "assume_role \"mesh\" is not the ARN of a role"),
        ("external_id: '4711'", "external_id needs assume_role"),
        ("session_name: mesh", "session_name needs assume_role"),
        (&format!("{role}, external_id: 'a b'"), "external_id must be 2 to 1224"),
        (&format!("{role}, session_name: 'a b'"), "session_name \"a b\" is not 2 to 64"),
        ("recovery_window_days: 6", "recovery_window_days 6 is not within 7 to 30"),
        ("recovery_window_days: 31", "recovery_window_days 31 is not within 7 to 30"),
        ("tags: {'AWS:x': v}", "tags: \"AWS:x\" is not 1 to 128 characters"),
        (&long, "tags.k: is longer than 256"),
        ("kms_key_id: 'a b'", "kms_key_id \"a b\" is not the id"),
        ("profile: x", "unknown field `profile`"),
    ] {
        let error = aws(rest).expect_err(rest).to_string();
        assert!(error.starts_with("dir/vaultmux.yaml:2: backends.a"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let all = format!(
        "{role}, external_id: '4711', session_name: eu, kms_key_id: alias/mesh, \
         tags: {{team: payments}}, recovery_window_days: 7"
    );
    let config = aws(&all).expect("valid");
    let BackendSettings::Aws(settings) = &config.backends[0].1 else { panic!("not AWS") };
    let expected = AssumeRole {
        role_arn: "arn:aws:iam::1:role/mesh".into(),
        external_id: Some("4711".into()),
        session_name: Some("eu".into()),
    };
    assert_eq!(settings.assume_role, Some(expected));
    assert_eq!(settings.tags, [("team".to_owned(), "payments".to_owned())].into());
    assert_eq!(settings.recovery_window_days, Some(7));
}

#[cfg(feature = "aws")]
#[test]
fn vaultmux_servers_environment_starts_a_sidecar() {
    use crate::backends::aws::AwsSettings;
    assert!(Environment::default().config().expect("nothing said").is_none());
    let environment = Environment::from([
        ("VAULTMUX_BACKEND", "awssecrets"),
        ("VAULTMUX_PREFIX", "team/"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT", "http://127.0.0.1:5566"),
        ("PORT", "8099"),
    ]);
    let config = environment.config().expect("valid").expect("a backend is named");
    assert_eq!(config.mode, Mode::Sidecar);
    assert_eq!(config.listeners.rest.address.to_string(), "127.0.0.1:8099");
    assert!(config.listeners.rest.health_on_all_addresses, "its manifests probe the pod");
    assert_eq!(config.catalog.default_backend().map(BackendName::as_str), Some("awssecrets"));
    assert!(!config.listeners.require_request_header, "its clients do not know the header");
    assert!(config.identity.local.is_some());
    let expected = AwsSettings {
        region: Some("eu-central-1".into()),
        prefix: "team/".into(),
        endpoint_url: Some("http://127.0.0.1:5566".into()),
        ..AwsSettings::default()
    };
    assert_eq!(config.backends[0].1, BackendSettings::Aws(expected));
    for (variable, value) in [("VAULTMUX_BACKEND", "redis"), ("PORT", "http")] {
        let wrong = Environment::from([("VAULTMUX_BACKEND", "awssecrets"), (variable, value)]);
        let error = wrong.config().expect_err("refused").to_string();
        assert!(error.starts_with(&format!("environment: {variable}: ")), "{error}");
    }
}

#[cfg(feature = "azure")]
#[test]
fn vaultmux_servers_azure_variables_are_enough() {
    let named = [("VAULTMUX_BACKEND", "azurekeyvault")];
    let error = Environment::from(named).config().expect_err("no vault").to_string();
    assert!(error.starts_with("environment: AZURE_KEYVAULT_URL: is needed"), "{error}");
    let vault = ("AZURE_KEYVAULT_URL", "https://my-vault.vault.azure.net/");
    for (environment, expected) in [
        (Environment::from([named[0], vault]), "vaultmux-"),
        (Environment::from([named[0], vault, ("VAULTMUX_PREFIX", "team-")]), "team-"),
        (Environment::from([named[0], vault, ("VAULTMUX_PREFIX", "")]), ""),
    ] {
        let config = environment.config().expect("valid").expect("a backend is named");
        assert_eq!(
            config.catalog.default_backend().map(BackendName::as_str),
            Some("azurekeyvault")
        );
        let BackendSettings::Azure(settings) = &config.backends[0].1 else { panic!("Azure") };
        assert_eq!(settings.prefix, expected);
        assert_eq!(settings.vault_url, "https://my-vault.vault.azure.net/");
        assert!(settings.verify_challenge_resource);
    }
}

#[cfg(feature = "gcp")]
#[test]
fn vaultmux_servers_environment_knows_gcp() {
    use crate::backends::gcp::{GcpCredentials, GcpSettings};
    let environment = Environment::from([
        ("VAULTMUX_BACKEND", "gcpsecrets"),
        ("GCP_PROJECT_ID", "my-project"),
        ("AWS_REGION", "eu-central-1"),
    ]);
    let config = environment.config().expect("valid").expect("a backend is named");
    assert_eq!(config.catalog.default_backend().map(BackendName::as_str), Some("gcpsecrets"));
    let expected = GcpSettings {
        project: "my-project".into(),
        prefix: "vaultmux-".into(),
        credentials: GcpCredentials::ApplicationDefault,
        ..GcpSettings::default()
    };
    assert_eq!(config.backends[0].1, BackendSettings::Gcp(expected));
    let without = Environment::from([("VAULTMUX_BACKEND", "gcpsecrets")]);
    let error = without.config().expect_err("no project").to_string();
    assert!(error.starts_with("environment: GCP_PROJECT_ID: "), "{error}");
}

#[cfg(feature = "gcp")]
#[test]
fn metadata_tokens_are_not_asked_for_through_a_proxy() {
    let read = |settings: &str, variables: &[(&str, &str); 2]| {
        let yaml =
            format!("backends: {{gcp: {{type: gcp_secret_manager, project: p{settings}}}}}\n");
        Config::parse(&yaml, Path::new("dir/vaultmux.yaml"), &Environment::from(*variables))
    };
    let proxy = ("HTTP_PROXY", "http://proxy:3128");
    for (settings, variable, allowed) in [
        ("", ("NO_PROXY", ""), false),
        ("", ("NO_PROXY", "metadata.google.internal"), false),
        ("", ("NO_PROXY", "metadata.google.internal,169.254.169.254"), true),
        ("", ("no_proxy", ".google.internal, 169.254.169.254"), true),
        ("", ("NO_PROXY", "*"), true),
        ("", ("GOOGLE_APPLICATION_CREDENTIALS", "/key.json"), true),
        (", credentials_file: key.json", ("NO_PROXY", ""), true),
    ] {
        let read = read(settings, &[proxy, variable]);
        assert_eq!(read.is_ok(), allowed, "{settings} {variable:?}: {:?}", read.err());
    }
    assert!(read("", &[("HTTPS_PROXY", "http://proxy:3128"), ("A", "b")]).is_ok());
}

#[cfg(feature = "aws")]
#[test]
fn aws_values_do_not_travel_in_the_clear() {
    let read = |mode: &str, url: &str| {
        let yaml = format!(
            "mode: {mode}\nbackends: {{aws: {{type: aws_secrets_manager, region: us-east-1, \
             endpoint_url: '{url}'}}}}\n"
        );
        let read = Config::parse(&yaml, Path::new("dir/vaultmux.yaml"), &Environment::default());
        judged(&yaml, read)
    };
    for (mode, url, allowed) in [
        ("cluster", "http://secretsmanager.example.com", false),
        ("cluster", "http://127.0.0.1.example.com:80", false),
        ("cluster", "https://vpce-1.secretsmanager.us-east-1.vpce.amazonaws.com", true),
        ("cluster", "http://127.0.0.1:4566", true),
        ("cluster", "http://[::1]:4566", true),
        ("development", "http://localstack:4566", true),
    ] {
        let read = read(mode, url);
        assert_eq!(read.is_ok(), allowed, "{mode} {url}: {:?}", read.err());
    }
}

#[cfg(feature = "gcp")]
#[test]
fn gcp_settings_are_checked() {
    let read = |settings: &str| {
        let yaml = format!(
            "mode: sidecar\nbackends: {{gcp: {{type: gcp_secret_manager, {settings}}}}}\n\
             identity: {{local: {{namespace: a, service_account: b}}}}\n"
        );
        judged(&yaml, Config::parse(&yaml, Path::new("/etc/vm/v.yaml"), &Environment::default()))
    };
    for settings in [
        "project: my-project",
        "project: '4711'",
        "project: 'example.com:old'",
        "project: p, location: europe-west3, prefix: team_a-",
        "project: p, impersonate: reader@p.iam.gserviceaccount.com",
        "project: p, credentials_file: key.json, credentials: default",
        "project: p, endpoint_url: 'https://secretmanager-x.p.googleapis.com'",
        "project: p, endpoint_url: 'http://127.0.0.1:8080'",
        "project: p, endpoint_url: 'http://[::1]:8080'",
        "project: p, endpoint_url: 'http://emulator:8080', credentials: anonymous",
    ] {
        read(settings).unwrap_or_else(|error| panic!("{settings}: {error}"));
    }
    for (settings, expected) in [
        ("prefix: a", "project"),
        ("project: ''", "project"),
        ("project: ../other", "project"),
        ("project: a/b", "project"),
        ("project: Upper", "project"),
        ("project: p, location: 'a/b'", "location"),
        ("project: p, location: ''", "location"),
        ("project: p, prefix: team/", "prefix"),
        ("project: p, impersonate: reader", "impersonate"),
        ("project: p, impersonate: 'a@b/../c'", "impersonate"),
        ("project: p, credentials: anonymous", "endpoint_url"),
        (
            "project: p, endpoint_url: 'http://e', credentials: anonymous, credentials_file: k",
            "credentials_file",
        ),
        (
            "project: p, endpoint_url: 'http://e', credentials: anonymous, impersonate: 'a@b'",
            "impersonate",
        ),
        ("project: p, endpoint_url: 'http://store:8080'", "in the clear"),
        ("project: p, endpoint_url: 'http://127.0.0.1.example.com'", "in the clear"),
        ("project: p, endpoint_url: 'ftp://x'", "endpoint_url"),
        ("project: p, region: x", "region"),
    ] {
        let error = read(settings).expect_err(settings).to_string();
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[cfg(feature = "vault")]
#[test]
fn a_vault_backend_has_one_login_and_hides_it() {
    use crate::backends::vault::{KvVersion, VaultAuth};
    let vault = |rest: &str| {
        let yaml = format!("backends:\n  vault:\n    type: vault_kv\n    {rest}\n");
        parse(&yaml).map(|config| config.backends[0].1.clone())
    };
    let at = "address: https://vault:8200";
    for (rest, expected) in [
        ("auth: {token: x}", "missing field `address`"),
        (at, "missing field `auth`"),
        (&format!("{at}\n    cas: 1\n    auth: {{token: x}}"), "unknown field `cas`"),
        (&format!("{at}\n    auth: {{}}"), "single key"),
        (&format!("{at}\n    auth: {{token: x, token_file: y}}"), "single key"),
        (&format!("{at}\n    auth: {{ldap: {{}}}}"), "unknown variant `ldap`"),
        (&format!("{at}\n    auth: {{token: 4711}}"), "a secret must be text"),
        (&format!("{at}\n    auth: {{token: ''}}"), "auth.token is empty"),
        (&format!("{at}\n    auth: {{kubernetes: {{}}}}"), "missing field `role`"),
        (&format!("{at}\n    auth: {{jwt: {{role: r}}}}"), "missing field `token_file`"),
        (
            &format!(
                "{at}\n    auth: {{app_role: {{role_id: r, secret_id: canary, secret_id_file: f}}}}"
            ),
            "exclude each other",
        ),
        (&format!("{at}\n    version: 3\n    auth: {{token: x}}"), "version 3 is not 1 or 2"),
        (&format!("{at}\n    mount: /a\n    auth: {{token: x}}"), "is no mount path"),
        (&format!("{at}\n    prefix: ../\n    auth: {{token: x}}"), "is no beginning of a path"),
        ("address: http://vault:8200\n    auth: {token: x}", "would send the token in clear text"),
    ] {
        let error = vault(rest).expect_err(rest).to_string();
        assert!(error.starts_with("dir/vaultmux.yaml:"), "{error}");
        assert!(error.contains(expected), "{rest}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }

    let settings = vault(&format!("{at}\n    auth: {{kubernetes: {{role: mesh}}}}"));
    let BackendSettings::Vault(settings) = settings.expect("valid") else { panic!("another") };
    assert_eq!((&*settings.mount, settings.version), ("secret", KvVersion::Two));
    let expected = VaultAuth::Kubernetes {
        mount: "kubernetes".to_owned(),
        role: "mesh".to_owned(),
        token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
    };
    assert_eq!(settings.auth, expected);
    let settings = vault(&format!("{at}\n    ca_file: ca.pem\n    auth: {{token_file: t}}"));
    let BackendSettings::Vault(settings) = settings.expect("valid") else { panic!("another") };
    assert_eq!(settings.auth, VaultAuth::TokenFile("dir/t".into()));
    assert_eq!(settings.ca_file, Some("dir/ca.pem".into()));

    for auth in ["{token: canary}", "{app_role: {role_id: r, secret_id: canary}}"] {
        let settings = vault(&format!("{at}\n    prefix: p/\n    auth: {auth}")).expect("valid");
        assert_eq!(settings.kind(), "vault_kv");
        assert_eq!(settings.grammar().max_len, 510);
        let shown = format!("{settings:?} {settings}");
        assert!(!shown.contains("canary"), "{shown}");
        let same = vault(&format!("{at}\n    prefix: p/\n    auth: {auth}")).expect("valid");
        assert_eq!(settings, same);
        let other = auth.replace("canary", "other");
        let other = vault(&format!("{at}\n    prefix: p/\n    auth: {other}")).expect("valid");
        assert_ne!(settings, other, "a reload sees the change");
    }
}

#[test]
fn decisions_are_audited_where_a_sink_is_named() {
    use crate::audit::{AuditSettings, Decisions, Sink};
    let audit = |rest: &str| parse(&format!("{LOCAL}{rest}")).expect("valid").audit;
    assert_eq!(audit(""), None);
    for (rest, sink, decisions) in [
        ("audit: {sink: stdout}", Sink::Stdout, Decisions::All),
        (
            "audit: {sink: 'file:/a/b', decisions: denied}",
            Sink::File("/a/b".into()),
            Decisions::Denied,
        ),
        ("audit: {sink: 'file:a', decisions: all}", Sink::File("dir/a".into()), Decisions::All),
    ] {
        assert_eq!(audit(rest), Some(AuditSettings { sink, decisions }), "{rest}");
    }
}
