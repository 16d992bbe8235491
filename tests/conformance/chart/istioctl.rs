//! What the chart renders for Istio, as Istio's own command line sees it, with the mesh
//! configuration of the notes.

use super::{
    helm::Helm,
    notes::{mesh_config, notes},
    situations,
};
use crate::istio::{analyzed, validates};

#[test]
fn istioctl_finds_nothing_wrong_with_what_is_rendered() {
    let helm = Helm::new();
    let mut looked_at = 0;
    for release in situations() {
        if release.values.pointer("/istio/enabled").is_none_or(|enabled| enabled != true) {
            continue;
        }
        looked_at += 1;
        let mesh = helm.write("mesh.yaml", &mesh_config(&notes(&helm, &release, &[])));
        let manifests = helm.template(&release, "1.36").expect_good();
        let file = helm.write("rendered.yaml", &manifests);
        let (valid, said) = validates(&file);
        assert!(valid, "{}: {said}", release.name);
        assert_eq!(analyzed(&mesh, &file), [""; 0], "{}", release.name);

        // What keeps this from passing whatever is rendered.
        let wrong = helm.write("wrong.yaml", &manifests.replace("action: ALLOW", "action: PERMIT"));
        let (valid, said) = validates(&wrong);
        assert!(!valid && said.contains("PERMIT"), "{}: {said}", release.name);
        let more = helm.write("more.yaml", &format!("{manifests}---\n{LOST}"));
        let found = analyzed(&mesh, &more);
        assert!(found.iter().any(|it| it.starts_with("IST0101")), "{}: {found:?}", release.name);
    }
    assert!(looked_at > 3, "{looked_at} situations");
}

/// Names a gateway that is nowhere.
const LOST: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: a, namespace: vaultmux-system}\n\
    spec: {hosts: [a], gateways: [nowhere], http: [{route: [{destination: {host: a}}]}]}\n";
