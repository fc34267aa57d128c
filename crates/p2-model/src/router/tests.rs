use p2_core::model::ChatMessage;

use super::*;

fn provider(name: &str, base_url: &str) -> ProviderConfig {
    ProviderConfig {
        name: name.into(),
        base_url: base_url.into(),
        api_key_env: None,
        api_key: None,
        headers: BTreeMap::new(),
    }
}

fn request(model: &str) -> ModelRequest {
    ModelRequest {
        model: model.into(),
        messages: vec![ChatMessage::User { content: "hey".into() }],
        tools: vec![],
        temperature: None,
        top_p: None,
        max_tokens: None,
    }
}

fn far() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    i64::try_from(now).unwrap() + 60_000
}

fn router(providers: Vec<ProviderConfig>, scripts_dir: Option<PathBuf>) -> Router {
    Router::new(RouterConfig { providers, scripts_dir }, |_| None).unwrap()
}

#[tokio::test]
async fn a_missing_key_names_the_variable() {
    let outcome = router(vec![], None).ask(&request("openai/gpt-4o"), far()).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(
        (error.class, error.code.as_str(), outcome.attempts),
        (ModelErrorClass::Permanent, "no_key", 0)
    );
    assert!(error.message.contains("OPENAI_API_KEY"), "{}", error.message);
}

#[tokio::test]
async fn an_unknown_provider_is_answered_with_the_known_ones() {
    let router = router(vec![provider("ollama", "http://localhost:11434/v1")], None);
    for model in ["openay/gpt", "gpt-4o", "scripted/", ""] {
        let error = router.ask(&request(model), far()).await.result.unwrap_err();
        assert_eq!(error.code, "unknown_model", "{model}");
        assert!(error.message.contains("ollama/…, openai/…, scripted/…"), "{}", error.message);
    }
}

#[tokio::test]
async fn the_demo_script_answers_without_any_configuration() {
    let router = router(vec![], None);
    let outcome = router.ask(&request("scripted/demo"), far()).await;
    assert_eq!(outcome.result.unwrap().text.as_deref(), Some("Hello! How can I help you today?"));
    assert_eq!((outcome.latency_ms, outcome.attempts), (0, 1));
    assert_eq!(router.check("scripted/demo"), Ok(()));
    assert_eq!(router.check("scripted/other").unwrap_err().code, "unknown_model");
}

#[tokio::test(start_paused = true)]
async fn a_scripts_delay_is_waited_for_and_cut_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("slow.yml"), "rules: [{reply: {text: done, delay_ms: 20000}}]").unwrap();
    let router = router(vec![], Some(dir.path().into()));
    let begin = tokio::time::Instant::now();
    let outcome = router.ask(&request("scripted/slow"), far()).await;
    assert_eq!(outcome.result.unwrap().text.as_deref(), Some("done"));
    assert_eq!((begin.elapsed().as_secs(), outcome.latency_ms), (20, 20_000));
    let error = router.ask(&request("scripted/slow"), far() - 55_000).await.result.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ModelErrorClass::Timeout, "timeout"));
}

#[tokio::test]
async fn a_script_file_is_read_again_when_it_changes_and_its_mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.yml");
    let router = router(vec![], Some(dir.path().into()));
    let missing = router.check("scripted/mine").unwrap_err();
    assert!(missing.code == "unknown_model" && missing.message.contains("mine.yml"), "{missing}");
    std::fs::write(&path, "rules: [{reply: {text: first}}]").unwrap();
    let first = router.ask(&request("scripted/mine"), far()).await.result.unwrap();
    assert_eq!(first.text.as_deref(), Some("first"));
    std::fs::write(&path, "rules: [{reply: {txt: second one}}]").unwrap();
    let wrong = router.check("scripted/mine").unwrap_err();
    assert!(wrong.code == "bad_script" && wrong.message.contains("did you mean 'text'?"), "{wrong}");
}

#[test]
fn a_scripts_name_cannot_leave_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    std::fs::write(dir.path().join("out.yml"), "rules: [{reply: {text: stolen}}]").unwrap();
    let router = router(vec![], Some(dir.path().join("in")));
    for name in ["../out", "a/../../out", ".hidden", ""] {
        assert_eq!(router.check(&format!("scripted/{name}")).unwrap_err().code, "unknown_model", "{name}");
    }
}

#[test]
fn a_provider_that_cannot_work_is_refused_by_name() {
    let cases = [
        (provider("scripted", "http://h/v1"), "belongs to the scripted models"),
        (provider("a/b", "http://h/v1"), "a name is made of"),
        (provider("x", "not a url"), "base_url"),
        (provider("x", "ftp://h/v1"), "scheme 'ftp'"),
        (provider("x", "http://me:pw@h/v1"), "user name or password"),
        (ProviderConfig { api_key_env: Some("MISSING".into()), ..provider("x", "nonsense") }, "base_url"),
        (ProviderConfig { api_key: Some(Secret::new("a\nb")), ..provider("x", "http://h/v1") }, "line break"),
        (
            ProviderConfig {
                api_key: Some(Secret::new("abcd")),
                api_key_env: Some("K".into()),
                ..provider("x", "http://h/v1")
            },
            "both api_key and api_key_env",
        ),
    ];
    for (config, expected) in cases {
        let name = config.name.clone();
        let config = RouterConfig { providers: vec![config], scripts_dir: None };
        let error = Router::new(config, |_| None).unwrap_err();
        assert_eq!(error.provider, name);
        assert!(error.to_string().contains(expected) && !error.to_string().contains("pw"), "{error}");
    }
    let twice = vec![provider("x", "http://h/v1"), provider("x", "http://h/v1")];
    assert!(Router::new(RouterConfig { providers: twice, scripts_dir: None }, |_| None).is_err());
}

#[test]
fn keys_come_from_the_environment_and_are_never_printed() {
    let env = |name: &str| (name == "MY_KEY").then(|| "sk-very-secret".to_owned());
    let config =
        ProviderConfig { api_key_env: Some("MY_KEY".into()), ..provider("mine", "http://h/v1?token=tok-1") };
    let with_key = ProviderConfig { api_key: Some(Secret::new("sk-very-secret")), ..config.clone() };
    assert!(!format!("{with_key:?}").contains("sk-very"));
    let router = Router::new(RouterConfig { providers: vec![config], scripts_dir: None }, env).unwrap();
    assert_eq!(router.check("mine/model"), Ok(()));
    let shown = format!("{router:?} {:?}", router.server("mine").unwrap());
    assert!(!shown.contains("sk-very") && !shown.contains("tok-1"), "{shown}");
}

#[test]
fn a_base_url_of_ones_own_needs_no_key() {
    let env = |name: &str| (name == "OPENAI_BASE_URL").then(|| "http://localhost:8000/v1".to_owned());
    let router = Router::new(RouterConfig::default(), env).unwrap();
    assert_eq!(router.check("openai/any"), Ok(()));
}
