//! Values that are refused, by the schema or by a template, with words that say what to do.

use serde_json::{Value, json};

use super::helm::{self, Helm, Release, documents, object};

#[test]
fn wrong_values_are_refused_with_their_place() {
    let helm = Helm::new();
    let good = Release::new("good", "config: {backends: {aws: {type: aws_secrets_manager}}}\n");
    helm.template(&good, "1.36").expect_good();
    for (values, expected) in [
        ("replicas: 3", "at '': additional properties 'replicas' not allowed"),
        ("mode: development", "at '/mode': value must be one of 'cluster', 'sidecar'"),
        ("config: {cache: {ttl: soon}}", "at '/config/cache/ttl'"),
        ("config: {chache: {}}", "at '/config': additional properties 'chache' not allowed"),
        ("config: {mode: sidecar}", "at '/config': additional properties 'mode' not allowed"),
        ("config: {backends: {aws: {regoin: x}}}", "additional properties 'regoin' not allowed"),
        ("config: {backends: {m: {type: memory}}}", "at '/config/backends/m/type'"),
        ("config: {identity: {grant: {key_file: a}}}", "additional properties 'key_file'"),
        (
            "config: {backends: {aws: {type: aws_secrets_manager, endpoint_url: 'http://a'}}}",
            "at '/config/backends/aws/endpoint_url'",
        ),
        ("config: {backends: null}", "config.backends needs at least one store"),
        ("config: {backends: {aws: null}}", "at '/config/backends/aws': got null, want object"),
        ("policies: {own.txt: [{}]}", "'own.txt' does not match pattern"),
        ("policies: {own.yaml: [{kind: AccessPolicy}]}", "missing properties"),
        ("policies: {own.yaml: []}", "at '/policies/own.yaml': minItems"),
        ("image: {digest: abc}", "at '/image/digest': 'abc' does not match pattern"),
        ("networkPolicy: {grpcFrom: [{}]}", "at '/networkPolicy/grpcFrom/0': minProperties"),
        ("listeners: {grpc: {port: 80}}", "at '/listeners/grpc/port': minimum: got 80"),
        ("listeners: {grpc: {trustedPeers: [everybody]}}", "at '/listeners/grpc/trustedPeers/0'"),
        ("podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}", "at '/podDisruptionBudget/"),
        ("tls: {clientCa: {configMap: a, secret: b}}", "at '/tls/clientCa/secret'"),
        ("cloudIdentity: {aws: {roleArn: mesh}}", "at '/cloudIdentity/aws/roleArn'"),
        ("cloudIdentity: {azure: {clientId: mesh}}", "at '/cloudIdentity/azure/clientId'"),
        (
            "istio: {protect: [{name: a, namespace: b, selector: {a: b}, targetRefs: [{}]}]}",
            "targetRefs",
        ),
        ("istio: {provider: My_Provider}", "at '/istio/provider'"),
        (
            "envoyGateway: {statusOnError: 200}",
            "at '/envoyGateway/statusOnError': minimum: got 200",
        ),
        ("strategy: {type: Rolling}", "at '/strategy/type': value must be one of 'RollingUpdate'"),
        ("strategy: {rollingUpdate: {maxSurge: many}}", "at '/strategy/rollingUpdate/maxSurge'"),
        (
            "podSecurityContext: {runAsUser: 0}",
            "at '/podSecurityContext/runAsUser': minimum: got 0",
        ),
        ("securityContext: {runAsUser: 0}", "at '/securityContext/runAsUser': minimum: got 0"),
        ("podSecurityContext: {runAsNonRoot: false}", "runAsNonRoot': value must be true"),
        ("podSecurityContext: {runasUser: 1000}", "additional properties 'runasUser' not allowed"),
        ("securityContext: {privileged: true}", "at '/securityContext/privileged': value must be"),
        (
            "securityContext: {capabilities: {add: [NET_ADMIN]}}",
            "at '/securityContext/capabilities': additional properties 'add' not allowed",
        ),
        ("resources: {limit: {memory: 1Gi}}", "at '/resources': additional properties 'limit'"),
        ("resources: {limits: {memory: 256}}", "at '/resources/limits/memory': minimum: got 256"),
        ("resources: {limits: {memory: 256m}}", "at '/resources/limits/memory': '256m' does not"),
        ("resources: {limits: {memory: 256MB}}", "at '/resources/limits/memory': '256MB' does"),
        ("resources: {requests: {cpu: 100Mi}}", "at '/resources/requests/cpu': '100Mi' does not"),
        ("resources: {requests: {cpu: 0}}", "at '/resources/requests/cpu': exclusiveMinimum"),
        ("sidecar: {resources: {limits: {memory: 1g}}}", "at '/sidecar/resources/limits/memory'"),
        ("tls: {certManager: {duration: soon}}", "at '/tls/certManager/duration': 'soon' does not"),
        // No names are all names: that has to be said.
        ("rbac: {secrets: [{namespace: a, verbs: [get]}]}", "missing property 'names'"),
        (
            "rbac: {secrets: [{namespace: a, names: [], verbs: [get]}]}",
            "at '/rbac/secrets/0/names': minItems: got 0, want 1",
        ),
        (
            "rbac: {secrets: [{namespace: a, names: [b], all: true, verbs: [get]}]}",
            "at '/rbac/secrets/0/names': maxItems: got 1, want 0",
        ),
        // The API server does not look at names where these are asked for.
        (
            "rbac: {secrets: [{namespace: a, names: [b], verbs: [list]}]}",
            "at '/rbac/secrets/0/verbs/0': value must be one of 'get', 'patch', 'delete'",
        ),
        (
            "rbac: {secrets: [{namespace: a, names: [b], verbs: [get, create]}]}",
            "at '/rbac/secrets/0/verbs/1'",
        ),
        // What a schema cannot say.
        (
            "listeners: {grpc: {port: 9090}}",
            "listeners.grpc.port and listeners.admin.port are both 9090",
        ),
        (
            "listeners: {rest: {port: 9191}}",
            "listeners.grpc.port and listeners.rest.port are both 9191",
        ),
        (
            "{istio: {enabled: true}, listeners: {admin: {port: 15020}}}",
            "listeners.admin.port is 15020: 15000 to 15090 are Istio's own",
        ),
        (
            "listeners: {grpc: {trustedPeers: [10.0.0.0/8, spiffe://a/ns/b/sa/c]}}",
            "listeners.grpc.trustedPeers has spiffe://a/ns/b/sa/c, which a certificate has to prove",
        ),
        (
            "{listeners: {grpc: {tls: true, trustedPeers: [spiffe://a/ns/b/sa/c]}}, tls: \
             {secretName: a}}",
            "which a certificate has to prove: set listeners.grpc.tls and tls.clientCa",
        ),
        (
            "{listeners: {grpc: {trustedPeers: [spiffe://a/ns/b/sa/c]}, rest: {tls: true}}, tls: \
             {secretName: a, clientCa: {secret: b}}}",
            "which a certificate has to prove: set listeners.grpc.tls and tls.clientCa",
        ),
        (
            "{listeners: {rest: {tls: true, clientCertificate: required}}, tls: {secretName: a}}",
            "listeners.rest.clientCertificate is required, and nothing asks for it",
        ),
        (
            "envoyGateway: {enabled: true, namespace: a, targetRefs: [{kind: Gateway, name: a}]}",
            "envoyGateway has requests decided by a service that nobody may ask",
        ),
        (
            "istio: {enabled: true, protect: [{name: a, namespace: b}]}",
            "istio.protect has requests decided by a service that nobody may ask",
        ),
        (
            "{istio: {enabled: true, callers: {rest: {namespaces: [a]}}}, listeners: {rest: \
             {enabled: true}}}",
            "istio.callers.rest names callers whom the NetworkPolicy keeps out",
        ),
        (
            "istio: {enabled: true, callers: {admin: {principals: [a]}}}",
            "istio.callers.admin names callers whom the NetworkPolicy keeps out: name them in \
             networkPolicy.adminFrom",
        ),
        (
            "istio: {enabled: true, sidecar: false, callers: {rest: {namespaces: [a]}}}",
            "istio.callers.rest names callers of a port that is closed",
        ),
        (
            "istio: {enabled: true, sidecar: false, callers: {grpc: {namespaces: [a]}}}",
            "istio.callers.grpc names callers of a port that is closed",
        ),
        (
            "{istio: {enabled: true}, podSecurityContext: {runAsUser: 1337}}",
            "podSecurityContext.runAsUser is 1337, which is istio-proxy's",
        ),
        (
            "{istio: {enabled: true}, podSecurityContext: {runAsGroup: 1337}}",
            "podSecurityContext.runAsGroup is 1337, which is istio-proxy's",
        ),
        (
            "{mode: sidecar, securityContext: {runAsUser: 1337}}",
            "securityContext.runAsUser is 1337, which is istio-proxy's",
        ),
        (
            "autoscaling: {enabled: true, minReplicas: 5, maxReplicas: 3}",
            "autoscaling.minReplicas is 5, more than autoscaling.maxReplicas, 3",
        ),
        (
            "{autoscaling: {enabled: true}, resources: {requests: {cpu: null}}}",
            "autoscaling counts in parts of resources.requests.cpu, which is not set",
        ),
        (
            "strategy: {rollingUpdate: {maxUnavailable: 0%, maxSurge: 0}}",
            "strategy.rollingUpdate.maxUnavailable and maxSurge are both 0",
        ),
        ("listeners: {rest: {tls: true}}", "needs tls.secretName or tls.certManager.enabled"),
        ("tls: {certManager: {enabled: true}}", "tls.certManager.issuerRef is needed"),
        (
            "{envoyGateway: {enabled: true}, listeners: {grpc: {trustedPeers: [10.0.0.0/8]}}}",
            "envoyGateway.namespace is needed",
        ),
        ("serviceAccount: {create: false}", "serviceAccount.name is needed"),
        (
            "{listeners: {grpc: {tls: true, trustedPeers: [10.0.0.0/8]}}, tls: {secretName: a}, envoyGateway: {enabled: true, \
             namespace: a, targetRefs: [{kind: Gateway, name: a}]}}",
            "envoyGateway.caCertificateRefs is needed",
        ),
    ] {
        let bad = helm.write("bad.yaml", values);
        let both = ["--values", good.file(), "--values", &bad.display().to_string()];
        let refused = helm.run(&[&["template", "x", helm::CHART][..], &both].concat()).expect_bad();
        assert!(refused.contains(expected), "{values}: {refused}");
    }
    let refused = helm.run(&["template", "x", helm::CHART]).expect_bad();
    assert!(refused.contains("config.backends needs at least one store"), "{refused}");
}

/// What stands close to the above, and is meant.
#[test]
fn values_at_the_border_are_taken() {
    let helm = Helm::new();
    let render = |values: &str| {
        let good = "config: {backends: {aws: {type: aws_secrets_manager}}}\n";
        let release = Release::new(values, &format!("{good}{values}\n"));
        documents(&helm.template(&release, "1.36").expect_good())
    };
    for values in [
        "podSecurityContext: {runAsUser: 1337}",
        "autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 3}",
        "resources: {requests: {cpu: 0.5, memory: 64Mi}, limits: {cpu: '2', memory: 1.5Gi}}",
        "resources: {limits: {memory: 268435456, cpu: 1500m}}",
        "rbac: {secrets: [{namespace: a, all: true, verbs: [get, list, create, patch, delete]}]}",
        "istio: {enabled: true}",
    ] {
        render(values);
    }
    // The API server takes no `rollingUpdate` with it, and the defaults have one.
    let strategy = |manifests: &[Value]| {
        object(manifests, "Deployment", "vaultmux-mesh")["spec"]["strategy"].clone()
    };
    assert_eq!(strategy(&render("strategy: {type: Recreate}")), json!({"type": "Recreate"}));
    let surge = json!({"maxUnavailable": 0, "maxSurge": "25%"});
    assert_eq!(
        strategy(&render("strategy: {rollingUpdate: {maxSurge: 25%}}")),
        json!({"type": "RollingUpdate", "rollingUpdate": surge})
    );
    let secrets = render("rbac: {secrets: [{namespace: a, all: true, verbs: [list]}]}");
    let role = object(&secrets, "Role", "vaultmux-mesh-secrets-0");
    let rule = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    assert_eq!(role["rules"], rule);
}
