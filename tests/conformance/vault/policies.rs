//! The policies in `docs/stores/vault.md`: each lets its verb pass, and no other.

use std::path::Path;

use super::*;

const METHODS: &[&str] =
    &["get", "list", "versions", "create", "update", "delete", "delete with force"];

/// The page's policies by their first line.
fn documented() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stores/vault.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("```hcl\n# ").skip(1);
    let policy = |block: &str| {
        let (block, _) = block.split_once("```").expect("a closed block");
        let (verb, hcl) = block.split_once('\n').expect("a verb");
        (verb.to_owned(), hcl.to_owned())
    };
    blocks.map(policy).collect()
}

async fn run(backend: &VaultBackend, method: &str) -> Result<(), BackendError> {
    let (held, value) = (name("held"), value("x"));
    match method {
        "get" => get(backend, "held").await.map(drop),
        "list" => backend.list(None).await.map(drop),
        "versions" => backend.versions(&held).await.map(drop),
        "create" => backend.create(&name("new/one"), &value).await.map(drop),
        "update" => backend.update(&held, &value).await.map(drop),
        "delete" => backend.delete(&held, false).await,
        "delete with force" => backend.delete(&held, true).await,
        other => panic!("{other}"),
    }
}

/// Makes and removes what the methods work on.
async fn reset(root: &VaultBackend) {
    for secret in [name("held"), name("new/one")] {
        match root.delete(&secret, true).await {
            Ok(()) | Err(BackendError::NotFound) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    root.create(&name("held"), &value("x")).await.expect("created");
}

#[tokio::test]
async fn documented_policies_let_their_verb_pass_and_no_other() {
    let bao = Bao::start().await;
    let policies = documented();
    assert_eq!(policies.len(), 12);
    for (at, (verb, hcl)) in policies.iter().enumerate() {
        let (settings, verb) = match verb.strip_prefix("version 1: ") {
            Some(verb) => (bao.version_1(), verb),
            None => (bao.settings(), verb.as_str()),
        };
        let settings = VaultSettings { prefix: "prod/".to_owned(), ..settings };
        let root = connect(settings.clone());
        bao.policy(&format!("documented-{at}"), hcl).await;
        let auth = token(&bao.token(&[&format!("documented-{at}")]).await);
        let backend = connect(VaultSettings { auth: auth.clone(), ..settings.clone() });
        for method in METHODS {
            reset(&root).await;
            let allowed = match (settings.version, verb) {
                (_, verb) if verb == *method => true,
                // Whoever writes version 2 looks at the metadata first.
                (KvVersion::Two, "create" | "update" | "delete" | "delete with force") => {
                    *method == "versions"
                }
                (KvVersion::One, "delete") if *method == "delete with force" => true,
                // In version 1 looking first means reading.
                (KvVersion::One, verb) if verb != "list" => matches!(*method, "get" | "versions"),
                _ => false,
            };
            let expected = if allowed { "ok" } else { "permission_denied" };
            let result = run(&backend, method).await;
            // It gets as far as a missing secret, which tells it nothing.
            assert_eq!(kind(result), expected, "{method} with the policy of {verb}, number {at}");
        }
        // The prefix is all that they open.
        let elsewhere = connect(VaultSettings { prefix: "dev/".to_owned(), auth, ..settings });
        for method in METHODS {
            assert_eq!(kind(run(&elsewhere, method).await), "permission_denied", "{method}");
        }
        // A name that is taken is told, by those who may create.
        if verb == "create" {
            reset(&root).await;
            assert_eq!(kind(backend.create(&name("held"), &value("y")).await), "conflict");
            assert_eq!(text(get(&root, "held").await.expect("kept")), "x");
        }
    }
}
