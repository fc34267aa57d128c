//! Starts aimock (npm `@copilotkit/aimock`) on a free loopback port; stops it when dropped.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
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
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let log_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("aimock-{port}.log"));
        let log = std::fs::File::create(&log_path).unwrap();
        let child = Command::new("node")
            .arg(program)
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "--validate-on-load", "-f"])
            .arg(fixtures)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("node starts");
        let mut server = Aimock { child, base_url: format!("http://127.0.0.1:{port}/v1") };
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < START_MAX, "aimock did not start, see {log_path:?}");
            std::thread::yield_now();
        }
        server
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
