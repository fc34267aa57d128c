//! A place of its own for every test: data directory, working directory, environment, and everything that
//! was written there or printed. Whatever happens, no secret of [`SECRETS`] may be found in it at the end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything: far beyond what a loaded machine needs.
pub(crate) const LONG: Duration = Duration::from_secs(120);
/// What every process of these tests gets as `OPENAI_API_KEY`.
pub(crate) const KEY: &str = "canary-7f3a-openai-key-d41c";
/// A token in the URL of a webhook.
pub(crate) const URL_TOKEN: &str = "canary-7f3a-webhook-token-9b2e";

/// Reads until `done` or [`LONG`] has passed.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LONG, "waited in vain: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// How a command begins that runs the processors itself, because nobody in the cluster does.
pub(crate) const STANDS_IN: &str = "Nobody in the cluster runs ";

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in\n{}", self.stdout))
    }
}

/// Brokers and CQL nodes that all places share, where the tests run on a cluster: `P2_E2E_KAFKA`, `P2_E2E_CQL`.
pub(crate) fn cluster() -> Option<(String, String)> {
    Some((std::env::var("P2_E2E_KAFKA").ok()?, std::env::var("P2_E2E_CQL").ok()?))
}

/// Places made so far.
static HOMES: AtomicU64 = AtomicU64::new(0);

/// Commands that write and leave the work to others: on a cluster somebody else has to be there.
const NEEDS_A_FLEET: [&str; 8] =
    ["apply", "config", "conversation", "dead-letters", "effects", "eval", "ledger", "trace"];

/// The place of one test.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    /// Added to the environment of every process.
    pub env: Vec<(String, String)>,
    printed: Arc<Mutex<Vec<u8>>>,
    /// Tokens of HTTP APIs that ran here.
    tokens: Arc<Mutex<Vec<String>>>,
    /// Processors of this place, on a cluster.
    fleet: Mutex<Option<Running>>,
}

impl Home {
    /// An empty place, with the key in the environment and the offline model.
    pub(crate) fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let mut home = Home {
            dir,
            env: Vec::new(),
            printed: Arc::default(),
            tokens: Arc::default(),
            fleet: Mutex::default(),
        };
        home.set("OPENAI_API_KEY", KEY);
        home.set("P2_MODEL", "scripted/demo");
        if let Some((brokers, nodes)) = cluster() {
            let name = format!("t{}x{}", std::process::id(), HOMES.fetch_add(1, Ordering::Relaxed));
            home.set("P2_KAFKA_BROKERS", &brokers);
            home.set("P2_KAFKA_PREFIX", &format!("{name}."));
            home.set("P2_SCYLLA_NODES", &nodes);
            home.set("P2_SCYLLA_KEYSPACE", &name);
            home.p2(&["topics", "apply", "--partitions", "2"]).exits(0);
            home.p2(&["store", "apply"]).exits(0);
        }
        home
    }

    /// Whether log and store are in the data directory.
    pub(crate) fn is_embedded(&self) -> bool {
        cluster().is_none()
    }

    /// The file that says where the API of this place is.
    pub(crate) fn api_file(&self) -> Option<PathBuf> {
        let found = fs::read_dir(self.path("data")).ok()?.flatten().map(|entry| entry.path());
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = found.filter(|path| name(path).starts_with("api") && name(path).ends_with(".json"));
        files.next()
    }

    /// On a cluster, processors run beside commands that only write.
    fn with_fleet(&self, args: &[&str]) {
        if self.is_embedded() {
            return;
        }
        let mut fleet = self.fleet.lock().unwrap();
        match args.first() {
            // These run what they need themselves.
            Some(&("up" | "run")) => {
                if let Some(running) = fleet.take() {
                    running.signal("TERM");
                    running.end();
                }
            }
            Some(first) if NEEDS_A_FLEET.contains(first) && fleet.is_none() && self.api_file().is_none() => {
                let running = self.spawn(&["run"]);
                until("the processors run", || (!running.stdout.lines().is_empty()).then_some(()));
                *fleet = Some(running);
            }
            _ => {}
        }
    }

    /// A place with the agents, tools and scripts of `tests/fixtures`, applied.
    pub(crate) fn with_fixtures() -> Home {
        let mut home = Home::new();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        home.set("P2_SCRIPTS_DIR", &fixtures.join("scripts").display().to_string());
        home.set("P2_DEV_TOOLS", &home.path("calls").display().to_string());
        home.p2(&["apply", &fixtures.join("definitions.yml").display().to_string()]).exits(0);
        home
    }

    /// Sets a variable of the environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.with_fleet(&["up"]);
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Removes one.
    pub(crate) fn unset(&mut self, name: &str) {
        self.with_fleet(&["up"]);
        self.env.retain(|(known, _)| known != name);
    }

    /// A path in the working directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the working directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The lines of a file; none where it is not there yet.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2engine"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("P2_DATA_DIR", self.path("data"))
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn p2(&self, args: &[&str]) -> Ran {
        self.p2_with(args, "")
    }

    /// Runs a command with this input.
    pub(crate) fn p2_with(&self, args: &[&str], input: &str) -> Ran {
        let mut running = self.start(args);
        running.say(input);
        running.close_input();
        running.end()
    }

    /// Starts a command.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.with_fleet(args);
        self.spawn(args)
    }

    /// Starts a command beside those that run.
    pub(crate) fn another(&self, args: &[&str]) -> Running {
        self.spawn(args)
    }

    fn spawn(&self, args: &[&str]) -> Running {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Tap::new(child.stdout.take().unwrap(), self.printed.clone());
        let stderr = Tap::new(child.stderr.take().unwrap(), self.printed.clone());
        Running { stdin: child.stdin.take(), child: Guarded(child), stdout, stderr }
    }

    /// Starts a command whose standard output nobody reads.
    pub(crate) fn start_unread(&self, args: &[&str]) -> Running {
        self.with_fleet(args);
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let stderr = Tap::new(child.stderr.take().unwrap(), self.printed.clone());
        let stdout = Tap::new(std::io::empty(), self.printed.clone());
        Running { stdin: child.stdin.take(), child: Guarded(child), stdout, stderr }
    }

    /// Starts `up` and waits until it serves.
    pub(crate) fn up(&self) -> Up {
        let running = self.start(&["up", "--json"]);
        let line = until("'up' says where it serves", || {
            let ended = running.stdout.has_ended();
            let found = running.stdout.lines().into_iter().next();
            assert!(found.is_some() || !ended, "'up' ended: {}", running.stderr.text());
            found
        });
        let said: Value = serde_json::from_str(&line).unwrap();
        let file: Value =
            serde_json::from_str(&fs::read_to_string(self.api_file().unwrap()).unwrap()).unwrap();
        assert_eq!(said["url"], file["url"]);
        let token = file["token"].as_str().unwrap().to_owned();
        self.tokens.lock().unwrap().push(token.clone());
        Up { running, api: Api::new(said["url"].as_str().unwrap(), &token) }
    }

    /// One more client of a running process, with connections of its own.
    pub(crate) fn api_of(&self, up: &Up) -> Api {
        Api::new(&up.api.url, &up.api.token)
    }

    /// Everything that processes printed here so far.
    pub(crate) fn printed(&self) -> Vec<u8> {
        self.printed.lock().unwrap().clone()
    }

    /// The places where a secret was written, of which there must be none.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut secrets = vec![KEY.to_owned(), URL_TOKEN.to_owned()];
        secrets.extend(self.tokens.lock().unwrap().iter().cloned());
        let mut found = Vec::new();
        let mut look = |place: &str, bytes: &[u8]| {
            for secret in &secrets {
                if contains(bytes, secret.as_bytes()) {
                    found.push(format!("{place}: {secret}"));
                }
            }
        };
        look("output", &self.printed());
        for path in files(self.dir.path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // The token's own place, for its owner's eyes; the definition's own file.
            if !name.starts_with("api") && !name.starts_with("secret-") {
                look(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
            }
        }
        found
    }
}

/// A server has room for some dozens of keyspaces, not for one of every test.
fn drop_keyspace(nodes: &str, keyspace: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let session = scylla::client::session_builder::SessionBuilder::new().known_node(nodes).build().await;
        if let Ok(session) = session {
            let _ = session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {keyspace}"), ()).await;
        }
    });
}

impl Drop for Home {
    fn drop(&mut self) {
        *self.fleet.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        if let Some((_, nodes)) = cluster() {
            let keyspace = self.env.iter().find(|(name, _)| name == "P2_SCYLLA_KEYSPACE");
            drop_keyspace(&nodes, &keyspace.unwrap().1);
        }
        if !std::thread::panicking() {
            assert_eq!(self.leaks(), Vec::<String>::new(), "secrets were written");
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What a process prints, taken in as it comes.
struct Tap {
    text: Arc<Mutex<(Vec<u8>, bool)>>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    fn new(source: impl Read + Send + 'static, printed: Arc<Mutex<Vec<u8>>>) -> Tap {
        let text: Arc<Mutex<(Vec<u8>, bool)>> = Arc::default();
        let sink = text.clone();
        let thread = std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                printed.lock().unwrap().extend_from_slice(&line);
                sink.lock().unwrap().0.append(&mut line);
            }
            sink.lock().unwrap().1 = true;
        });
        Tap { text, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap().0).into_owned()
    }

    fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    fn has_ended(&self) -> bool {
        self.text.lock().unwrap().1
    }

    fn end(mut self) -> String {
        self.thread.take().unwrap().join().unwrap();
        self.text()
    }
}

/// A child that does not outlive its test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process under way.
pub(crate) struct Running {
    child: Guarded,
    stdin: Option<ChildStdin>,
    stdout: Tap,
    stderr: Tap,
}

impl Running {
    pub(crate) fn say(&mut self, text: &str) {
        // Whoever does not read it has ended by now.
        let _ = self.stdin.as_mut().unwrap().write_all(text.as_bytes());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends `INT`, `TERM`, ….
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub(crate) fn kill(self) {
        let Running { child, stdout, stderr, .. } = self;
        drop(child);
        stdout.end();
        stderr.end();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let status: ExitStatus = until("the process ends", || self.child.0.try_wait().unwrap());
        let Running { stdout, stderr, .. } = self;
        let mut stderr = stderr.end();
        // What is said on a cluster only; a test of its own looks for it.
        if cluster().is_some() && stderr.starts_with(STANDS_IN) {
            stderr = stderr.split_once('\n').map_or("", |(_, rest)| rest).to_owned();
        }
        Ran { code: status.code(), stdout: stdout.end(), stderr }
    }
}

/// A running `up`.
pub(crate) struct Up {
    pub running: Running,
    pub api: Api,
}

impl Up {
    /// Ends it with Ctrl-C.
    pub(crate) fn interrupt(self) -> Ran {
        self.running.signal("INT");
        self.running.end()
    }
}

/// The HTTP API of a running process.
#[derive(Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    runtime: Arc<tokio::runtime::Runtime>,
    pub url: String,
    pub token: String,
}

impl Api {
    fn new(url: &str, token: &str) -> Api {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let client = reqwest::Client::builder().no_proxy().timeout(LONG).build().unwrap();
        Api { client, runtime: Arc::new(runtime.unwrap()), url: url.to_owned(), token: token.to_owned() }
    }

    async fn send(self, method: &str, path: String, body: Option<Value>) -> Option<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}/v1/{path}", self.url);
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Status and body; none where the process did not answer.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        self.runtime.block_on(self.clone().send("POST", path.to_owned(), Some(body.clone())))
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body).unwrap()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.runtime.block_on(self.clone().send("GET", path.to_owned(), None)).unwrap()
    }

    /// All of them at the same time; the answers in the order of the bodies.
    pub(crate) fn post_all(&self, path: &str, bodies: Vec<Value>) -> Vec<(u16, Value)> {
        self.runtime.block_on(async {
            let mut set = tokio::task::JoinSet::new();
            for (index, body) in bodies.into_iter().enumerate() {
                let sent = self.clone().send("POST", path.to_owned(), Some(body));
                set.spawn(async move { (index, sent.await.unwrap()) });
            }
            let mut answers = set.join_all().await;
            answers.sort_by_key(|(index, _)| *index);
            answers.into_iter().map(|(_, answer)| answer).collect()
        })
    }

    /// Says something and waits for the outcome of that message (not for the answer).
    #[track_caller]
    pub(crate) fn say(&self, conversation: &str, agent: &str, text: &str) -> Value {
        let (status, body) = self.post("inbox?wait=outcome", &user_text(conversation, agent, text));
        assert_eq!(status, 200, "{body}");
        body["outcome"].clone()
    }

    /// The conversation once `done` holds for it.
    pub(crate) fn conversation_when(&self, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        until(&format!("'{name}' comes to the state that is awaited"), || {
            let (status, body) = self.get(&format!("conversations/{name}"));
            (status == 200 && done(&body)).then_some(body)
        })
    }

    /// The conversation once nothing is awaited in it any more.
    pub(crate) fn settled(&self, name: &str) -> Value {
        self.conversation_when(name, |conversation| {
            conversation["waits"].as_object().is_some_and(serde_json::Map::is_empty)
        })
    }
}

/// The body of a user's message.
pub(crate) fn user_text(conversation: &str, agent: &str, text: &str) -> Value {
    serde_json::json!({
        "conversation": conversation,
        "body": {"UserText": {"agent": agent, "branch": null, "text": text}},
    })
}

/// The entries of an agent over all branches: (kind, fields), in order of their sequence numbers.
pub(crate) fn entries(conversation: &Value, agent: &str) -> Vec<(String, Value)> {
    let branches = conversation["stacks"][agent]["branches"].as_object();
    let mut found: Vec<(i64, String, Value)> = Vec::new();
    for branch in branches.into_iter().flat_map(serde_json::Map::values) {
        for entry in branch["entries"].as_array().into_iter().flatten() {
            let (kind, fields) = entry["state"].as_object().unwrap().iter().next().unwrap();
            found.push((entry["seq"].as_i64().unwrap(), kind.clone(), fields.clone()));
        }
    }
    found.sort_by_key(|(seq, ..)| *seq);
    found.into_iter().map(|(_, kind, fields)| (kind, fields)).collect()
}
