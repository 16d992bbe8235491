//! What becomes of calls when a store fails, throttles or hangs.

use std::{
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::time::{Instant, advance};

use super::*;
use crate::{
    backends::{CallContext, SecretPage, VersionEntry},
    policy::{Policies, PolicySet},
    secret::{Catalog, CatalogEntry, NameGrammar, SecretVersion},
};

type Answer = dyn Fn(usize) -> Result<String, BackendError> + Send + Sync;

const GRAMMAR: NameGrammar = NameGrammar::new("/-_.", 255);

/// A store whose n-th call (from 1) is answered by a function.
pub(super) struct Scripted {
    answer: Box<Answer>,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    takes: Mutex<Duration>,
    contexts: Mutex<Vec<CallContext>>,
}

impl Scripted {
    pub(super) fn new(
        answer: impl Fn(usize) -> Result<String, BackendError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            answer: Box::new(answer),
            calls: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            takes: Mutex::default(),
            contexts: Mutex::default(),
        })
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How long each call takes from now on.
    pub(super) fn takes(&self, time: Duration) {
        *self.takes.lock().expect("not poisoned") = time;
    }

    /// Waits until no call is under way.
    pub(super) async fn settle(&self) {
        // A fetch in the background first has to be polled.
        tokio::time::sleep(Duration::from_millis(1)).await;
        until(|| self.at_once.load(Ordering::SeqCst) == 0).await;
    }

    async fn call(&self) -> Result<String, BackendError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let context = CallContext::current().expect("every call has one");
        self.contexts.lock().expect("not poisoned").push(context);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let takes = *self.takes.lock().expect("not poisoned");
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        (self.answer)(call)
    }
}

struct Shared(Arc<Scripted>);

#[async_trait]
impl SecretBackend for Shared {
    async fn get(&self, _: &SecretName, _: &SecretVersion) -> Result<SecretRecord, BackendError> {
        let value = SecretValue::new(self.0.call().await?);
        Ok(SecretRecord { value, version: "1".into(), created_at: None })
    }

    async fn list(&self, _: Option<&str>) -> Result<SecretPage, BackendError> {
        let cursor = Some(self.0.call().await?);
        Ok(SecretPage { names: Vec::new(), cursor })
    }

    async fn create(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Ok(self.0.call().await?.into())
    }

    async fn update(&self, _: &SecretName, _: &SecretValue) -> Result<Arc<str>, BackendError> {
        Ok(self.0.call().await?.into())
    }

    async fn delete(&self, _: &SecretName, _: bool) -> Result<(), BackendError> {
        self.0.call().await.map(drop)
    }

    async fn versions(&self, _: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        self.0.call().await.map(|_| Vec::new())
    }

    fn can_have(&self, version: &SecretVersion) -> bool {
        version.as_str() != "impossible"
    }

    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        let fits = value.len() <= 1000;
        if fits { Ok(()) } else { Err(BackendError::Invalid("too long".to_owned())) }
    }

    fn credentials_expire(&self) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_711))
    }
}

fn backend(name: &str) -> BackendName {
    BackendName::parse(name).expect("valid")
}

pub(super) fn opened(store: &Arc<Scripted>) -> Store {
    Shared(Arc::clone(store)).into()
}

pub(super) fn resolver(stores: &[(&str, &Arc<Scripted>)], settings: ResolverSettings) -> Resolver {
    resolver_with(stores, settings, &Arc::new(Metrics::default()))
}

pub(super) fn resolver_with(
    stores: &[(&str, &Arc<Scripted>)],
    settings: ResolverSettings,
    metrics: &Arc<Metrics>,
) -> Resolver {
    let store = |(name, store): &(&str, &Arc<Scripted>)| {
        (backend(name), Store::from(Shared(Arc::clone(store))))
    };
    Resolver::new(stores.iter().map(store).collect(), settings, Arc::clone(metrics))
}

/// The right of `account` to everything in two backends.
pub(super) fn permit_of(account: &str, verb: Verb, store: &str, name: &str) -> Permit {
    let (catalog, policies) = &*EVERYTHING;
    let plain = crate::secret::NameEncoding::Plain;
    let (name, version) = name.split_once('?').unwrap_or((name, "latest"));
    let mut secret = catalog.locate(name, plain, Some(store)).expect("valid name");
    secret.version = SecretVersion::parse(version).expect("valid version");
    policies.authorize(&fixture::principal(account), verb, &secret).expect("allowed")
}

/// Two backends, and everyone may do everything.
static EVERYTHING: LazyLock<(Catalog, PolicySet)> = LazyLock::new(|| {
    let entry = |name| (backend(name), CatalogEntry { grammar: GRAMMAR });
    let backends = [entry("local"), entry("other")];
    let catalog = Catalog::new(backends.into(), None, Vec::new()).expect("valid");
    let all = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{namespaces: ['*']}]
  to: [{secrets: {names: ['*'], verbs: [get, list, create, update, delete]}}]
";
    let policies = Policies::parse(&[("all.yaml".into(), all.into())], &catalog);
    let policies = PolicySet::compile(&policies.expect("valid policy"), 1);
    (catalog, policies)
});

pub(super) fn permit(store: &str, name: &str) -> Permit {
    permit_of("prod/api", Verb::Get, store, name)
}

fn down() -> BackendError {
    BackendError::Unavailable(None)
}

fn kind<T: std::fmt::Debug>(result: Result<T, ResolveError>) -> &'static str {
    match result.expect_err("an error") {
        ResolveError::Backend { error, .. } => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_an_outage_met_are_tried_again_and_writes_are_not() {
    let store = Scripted::new(|call| if call % 3 == 0 { Ok("x".to_owned()) } else { Err(down()) });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    assert_eq!(text(resolver.resolve(&permit("local", "a"), soon()).await), "x");
    assert_eq!(store.calls(), 3);
    let value = SecretValue::new("x");
    let of = |verb| permit_of("prod/api", verb, "local", "b");
    assert_eq!(kind(resolver.create(&of(Verb::Create), &value, soon()).await), "unavailable");
    assert_eq!(store.calls(), 4);
    assert_eq!(kind(resolver.update(&of(Verb::Update), &value, soon()).await), "unavailable");
    assert_eq!(store.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn only_outages_are_worth_a_second_try() {
    for error in [
        BackendError::NotFound,
        BackendError::PermissionDenied(None),
        BackendError::Disabled,
        BackendError::Throttled { retry_after: None },
        BackendError::TimedOut,
        BackendError::Invalid("x".to_owned()),
    ] {
        let expected = error.kind();
        let store = Scripted::new(move |_| Err(error.clone()));
        let resolver = resolver(&[("local", &store)], ResolverSettings::default());
        assert_eq!(kind(resolver.resolve(&permit("local", "a"), soon()).await), expected);
        assert_eq!(store.calls(), 1, "{expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_left_alone_and_others_are_not() {
    let (broken, working) = (Scripted::new(|_| Err(down())), Scripted::new(|_| Ok("x".to_owned())));
    let resolver =
        resolver(&[("local", &broken), ("other", &working)], ResolverSettings::default());
    for at in 0..1000 {
        let get = permit("local", &format!("key-{at}"));
        assert_eq!(kind(resolver.resolve(&get, soon()).await), "unavailable");
        if at < 100 {
            let get = permit("other", &format!("key-{at}"));
            assert_eq!(text(resolver.resolve(&get, soon()).await), "x");
        }
    }
    assert!(broken.calls() <= 6, "{} calls for 1000 readers", broken.calls());
    let states: Vec<_> = resolver.status().iter().map(|status| status.state).collect();
    assert_eq!(states, ["down", "up"]);
    let failure = resolver.status()[0].last_failure.map(|(kind, _)| kind);
    assert_eq!(failure, Some("unavailable"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_is_used_again() {
    let store = Scripted::new(|call| if call < 8 { Err(down()) } else { Ok("x".to_owned()) });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    for at in 0..10 {
        let get = permit("local", &format!("key-{at}"));
        resolver.resolve(&get, soon()).await.expect_err("down");
    }
    let mut waited = 0;
    while resolver.resolve(&permit("local", "db"), soon()).await.is_err() {
        advance(Duration::from_secs(1)).await;
        waited += 1;
        assert!(waited < 60, "never tried again");
    }
    assert_eq!(resolver.status()[0].state, "up");
}

#[tokio::test(start_paused = true)]
async fn a_throttling_store_costs_no_storm_and_stale_values_serve() {
    let wait = Some(Duration::from_secs(20));
    let store = Scripted::new(move |call| match call {
        1 => Ok("old".to_owned()),
        _ => Err(BackendError::Throttled { retry_after: wait }),
    });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    resolver.resolve(&get, soon()).await.expect("resolved");
    advance(Duration::from_secs(100)).await;
    for _ in 0..1000 {
        assert_eq!(text(resolver.resolve(&get, soon()).await), "old");
    }
    assert_eq!(store.calls(), 2, "asked once, then left alone");
    // Another name is not asked for either, and its readers hear for how long.
    let other = resolver.resolve(&permit("local", "other"), soon()).await;
    let Err(ResolveError::Backend { error: BackendError::Throttled { retry_after }, .. }) = other
    else {
        panic!("{other:?}")
    };
    assert!(retry_after.is_some_and(|wait| wait.as_secs() >= 19), "{retry_after:?}");
    assert_eq!(store.calls(), 2);
    assert_eq!(resolver.status()[0].state, "throttled");
}

#[tokio::test(start_paused = true)]
async fn a_store_has_only_so_many_calls_to_serve_at_once() {
    let store = Scripted::new(|_| Ok("x".to_owned()));
    store.takes(Duration::from_millis(100));
    let settings = ResolverSettings { backend_concurrency: 4, ..Default::default() };
    let resolver = resolver(&[("local", &store)], settings);
    let of = |at| permit_of(&format!("prod/p{}", at % 4), Verb::Get, "local", &format!("key-{at}"));
    let permits: Vec<_> = (0..40).map(of).collect();
    let found = join_all(permits.iter().map(|get| resolver.resolve(get, soon()))).await;
    assert!(found.iter().all(Result::is_ok));
    assert_eq!(store.most_at_once.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn another_store_answers_while_one_is_down() {
    let (first, second) =
        (Scripted::new(|_| Err(down())), Scripted::new(|_| Ok("copy".to_owned())));
    let mut settings = ResolverSettings::default();
    let standby = Standby { backend: backend("other"), grammar: NameGrammar::new("-_", 255) };
    settings.failover.insert(backend("local"), vec![standby]);
    let resolver = resolver(&[("local", &first), ("other", &second)], settings);
    assert_eq!(text(resolver.resolve(&permit("local", "db"), soon()).await), "copy");
    assert_eq!((first.calls(), second.calls()), (3, 1));
    // Not for a name that the other store would read as something else, and not
    // for writes.
    assert_eq!(kind(resolver.resolve(&permit("local", "a/b"), soon()).await), "unavailable");
    let update = permit_of("prod/api", Verb::Update, "local", "db");
    let written = resolver.update(&update, &SecretValue::new("x"), soon()).await;
    assert_eq!(kind(written), "unavailable");
    assert_eq!(second.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_leaves_time_for_the_next() {
    let (first, second) =
        (Scripted::new(|_| Ok("late".to_owned())), Scripted::new(|_| Ok("copy".to_owned())));
    first.takes(Duration::from_secs(60));
    let mut settings = ResolverSettings::default();
    let standby = Standby { backend: backend("other"), grammar: GRAMMAR };
    settings.failover.insert(backend("local"), vec![standby]);
    let resolver = resolver(&[("local", &first), ("other", &second)], settings);
    let started = Instant::now();
    let deadline = started + Duration::from_secs(5);
    assert_eq!(text(resolver.resolve(&permit("local", "db"), deadline).await), "copy");
    assert!(started.elapsed() <= Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_store_says_about_a_secret_is_not_looked_for_elsewhere() {
    for error in
        [BackendError::NotFound, BackendError::PermissionDenied(None), BackendError::Disabled]
    {
        let expected = error.kind();
        let (first, second) =
            (Scripted::new(move |_| Err(error.clone())), Scripted::new(|_| Ok("copy".to_owned())));
        let mut settings = ResolverSettings::default();
        let standby = Standby { backend: backend("other"), grammar: GRAMMAR };
        settings.failover.insert(backend("local"), vec![standby]);
        let resolver = resolver(&[("local", &first), ("other", &second)], settings);
        assert_eq!(kind(resolver.resolve(&permit("local", "db"), soon()).await), expected);
        assert_eq!(second.calls(), 0, "{expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_without_its_caller_and_what_was_cached_is_gone_then() {
    let store = Scripted::new(|call| Ok(format!("v{call}")));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let get = permit("local", "db");
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v1");
    store.takes(Duration::from_secs(2));
    let update = permit_of("prod/api", Verb::Update, "local", "db");
    let deadline = Instant::now() + Duration::from_secs(1);
    let hasty = resolver.update(&update, &SecretValue::new("x"), deadline).await;
    assert!(matches!(hasty, Err(ResolveError::Deadline)), "{hasty:?}");
    store.settle().await;
    assert_eq!(text(resolver.resolve(&get, soon()).await), "v3", "v2 was the write");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_goes_in_circles_is_given_up() {
    let store = Scripted::new(|_| Ok("same cursor".to_owned()));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let snapshot = setup(fixture::CONFIG, &Gate::new(&[], 0));
    let api = fixture::principal("prod/api");
    let permit = snapshot.policies.authorize_collection(&api, Verb::List).expect("allowed");
    let listed = resolver.list(&permit, &backend("local"), soon()).await;
    assert_eq!(kind(listed), "invalid");
    assert_eq!(store.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_is_not_asked_under_another_spelling_or_for_a_version() {
    let (first, second) =
        (Scripted::new(|_| Err(down())), Scripted::new(|_| Ok("copy".to_owned())));
    let mut settings = ResolverSettings::default();
    let grammar = NameGrammar::new("-", 127).ignoring_case();
    settings
        .failover
        .insert(backend("local"), vec![Standby { backend: backend("other"), grammar }]);
    let resolver = resolver(&[("local", &first), ("other", &second)], settings);
    // Policies were asked about this spelling, not about the one it folds to.
    assert_eq!(kind(resolver.resolve(&permit("local", "Root"), soon()).await), "unavailable");
    assert_eq!(kind(resolver.resolve(&permit("local", "root?3"), soon()).await), "unavailable");
    assert_eq!(second.calls(), 0);
    assert_eq!(text(resolver.resolve(&permit("local", "root"), soon()).await), "copy");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_one_principal_harms_neither_the_store_nor_others() {
    let store = Scripted::new(|_| Ok("x".to_owned()));
    store.takes(Duration::from_millis(130));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    for at in 0..4000 {
        let (resolver, get) = (resolver.clone(), permit("local", &format!("key-{at}")));
        tokio::spawn(async move { resolver.resolve(&get, Instant::now()).await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    let victim = permit_of("prod/other", Verb::Get, "local", "db");
    assert_eq!(text(resolver.resolve(&victim, soon()).await), "x");
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(resolver.status()[0].state, "up", "the store answered every call");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_could_not_have_or_take_says_nothing_about_it() {
    let store = Scripted::new(|_| Err(down()));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let long = SecretValue::new(vec![b'x'; 1001]);
    let create = permit_of("prod/api", Verb::Create, "local", "new");
    for at in 0..60 {
        let get = permit("local", &format!("key-{at}"));
        assert_eq!(kind(resolver.resolve(&get, soon()).await), "unavailable");
        let odd = permit("local", &format!("key-{at}?impossible"));
        assert_eq!(kind(resolver.resolve(&odd, soon()).await), "not_found");
        assert_eq!(kind(resolver.create(&create, &long, soon()).await), "invalid");
    }
    assert!(store.calls() <= 6, "{} calls", store.calls());
    let status = &resolver.status()[0];
    assert_eq!((status.state, status.last_answer), ("down", None));
}

#[tokio::test(start_paused = true)]
async fn writes_and_listings_that_fail_do_not_close_the_store_to_readers() {
    let store = Scripted::new(|call| if call <= 20 { Err(down()) } else { Ok("x".to_owned()) });
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let update = permit_of("prod/api", Verb::Update, "local", "db");
    for _ in 0..20 {
        let failed = resolver.update(&update, &SecretValue::new("x"), soon()).await;
        assert_eq!(kind(failed), "unavailable");
    }
    assert_eq!(text(resolver.resolve(&permit("local", "db"), soon()).await), "x");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_us_says_so_in_its_state() {
    let store = Scripted::new(|call| match call {
        1 => Err(BackendError::PermissionDenied(None)),
        _ => Ok("x".to_owned()),
    });
    let metrics = Arc::new(Metrics::default());
    let resolver = resolver_with(&[("local", &store)], ResolverSettings::default(), &metrics);
    assert_eq!(kind(resolver.resolve(&permit("local", "a"), soon()).await), "permission_denied");
    assert_eq!(resolver.status()[0].state, "refusing");
    resolver.measure();
    let text = metrics.encode().expect("text");
    let line = r#"vaultmux_backend_credentials_expiry_timestamp_seconds{backend="local"} 4711"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    // A denial is remembered, like a name that is missing.
    for _ in 0..1000 {
        let again = resolver.resolve(&permit("local", "a"), soon()).await;
        assert_eq!(kind(again), "permission_denied");
    }
    assert_eq!(store.calls(), 1);
    resolver.resolve(&permit("local", "b"), soon()).await.expect("resolved");
    assert_eq!(resolver.status()[0].state, "up");
}

#[tokio::test(start_paused = true)]
async fn a_call_knows_for_which_request_and_until_when_it_is() {
    let store = Scripted::new(|_| Ok("x".to_owned()));
    let resolver = resolver(&[("local", &store)], ResolverSettings::default());
    let call = Call { deadline: soon(), request_id: Some("request-7".into()) };
    let before = Instant::now();
    resolver.resolve(&permit("local", "a"), call.clone()).await.expect("resolved");
    let update = permit_of("prod/api", Verb::Update, "local", "a");
    resolver.update(&update, &SecretValue::new("x"), call).await.expect("updated");
    let contexts = store.contexts.lock().expect("not poisoned");
    for context in contexts.iter() {
        assert_eq!(context.request_id.as_deref(), Some("request-7"));
        assert!(context.deadline <= before + Duration::from_secs(6), "{:?}", context.deadline);
    }
    assert_eq!(contexts.len(), 2);
}
