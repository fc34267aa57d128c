//! Starts aimock (npm `@copilotkit/aimock`) on a free loopback port; stops it when dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

const PACKAGE: &str = "@copilotkit/aimock@1.43.0";
const START_MAX: Duration = Duration::from_secs(60);

/// A running aimock.
pub(crate) struct Aimock {
    child: Child,
    /// Its OpenAI-compatible API.
    pub(crate) base_url: String,
}

impl Aimock {
    /// Installs it once under the target directory, and starts it with these fixtures.
    pub(crate) fn start(fixtures: &Path) -> Aimock {
        let program = install();
        let mut child = Command::new("node")
            .arg(program)
            .args(["-h", "127.0.0.1", "-p", "0", "--validate-on-load", "-f"])
            .arg(fixtures)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Aimock { child, base_url: String::new() };
        // Its own word that it listens, not a probe of the port: a connect to a free loopback port can meet
        // itself and succeed before anybody listens.
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to the end, so that a full pipe never stops the server.
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let begin = Instant::now();
        loop {
            let line = told.recv_timeout(START_MAX.saturating_sub(begin.elapsed()));
            let line = line.expect("aimock says where it listens");
            if let Some((_, url)) = line.split_once("listening on ") {
                server.base_url = format!("{}/v1", url.trim());
                return server;
            }
        }
    }
}

impl Drop for Aimock {
    fn drop(&mut self) {
        // By its own handle: nobody else's process is touched.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program; installed by the first caller while the others wait.
fn install() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(install_once)
}

fn install_once() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aimock-1.43.0");
    let program = dir.join("node_modules/.bin/llmock");
    if !program.exists() {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("package.json"), "{\"private\": true}\n").unwrap();
        let status = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--silent", PACKAGE])
            .current_dir(&dir)
            .status()
            .expect("npm starts");
        assert!(status.success(), "npm install {PACKAGE} failed: {status}");
    }
    program
}
