//! The processes of the processors: `p2engine run …`, started from this executable.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::history::{Event, History};
use super::plan::Instance;
use super::services::signal;
use crate::engine::{EngineError, EngineResult};

/// How long a process may take to stop: it drains for ten seconds, and leaves its groups.
const STOP_MAX: Duration = Duration::from_secs(60);
/// The exit code of whoever ended because of a SIGTERM.
const TERMINATED: i32 = 143;
/// Pause before a process that found no server is started again, as whoever runs processes makes one.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The exit code of whoever found no server when it started.
pub(crate) const UNAVAILABLE: i32 = 5;

/// How processes are started, and which there are.
pub(crate) struct Processes {
    program: PathBuf,
    /// The settings file of every process.
    settings: PathBuf,
    /// Data directories and logs.
    dir: PathBuf,
    environment: Vec<(&'static str, String)>,
    history: Arc<History>,
    running: BTreeMap<Instance, Running>,
    /// Those that found no server, and when they are started again.
    later: BTreeMap<Instance, Instant>,
    starts: u64,
    gave_up: u64,
}

struct Running {
    child: Child,
    suspended: bool,
    /// Since when it is told to stop.
    stopping: Option<Instant>,
    /// It is started once more when it has ended.
    again: bool,
}

fn failed(what: &str, error: &std::io::Error) -> EngineError {
    EngineError::Internal(format!("{what}: {error}"))
}

impl Processes {
    /// None yet.
    ///
    /// # Errors
    /// This executable has no name.
    pub(crate) fn new(
        settings: &Path,
        dir: &Path,
        environment: Vec<(&'static str, String)>,
        history: Arc<History>,
    ) -> EngineResult<Processes> {
        let program = std::env::current_exe().map_err(|error| failed("this executable", &error))?;
        Ok(Processes {
            program,
            settings: settings.to_owned(),
            dir: dir.to_owned(),
            environment,
            history,
            running: BTreeMap::new(),
            later: BTreeMap::new(),
            starts: 0,
            gave_up: 0,
        })
    }

    /// A command of this executable with the settings of the system.
    pub(crate) fn command(&self, settings: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(settings).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// How many were started so far.
    pub(crate) fn starts(&self) -> u64 {
        self.starts
    }

    /// How many of these found no server and ended.
    pub(crate) fn gave_up(&self) -> u64 {
        self.gave_up
    }

    /// Starts a process, unless it runs; one that is stopping is started again once it has ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&mut self, instance: Instance) -> EngineResult<()> {
        self.later.remove(&instance);
        if let Some(running) = self.running.get_mut(&instance) {
            running.again = true;
            return Ok(());
        }
        let name = instance.name();
        let log = self.dir.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|error| failed(&log.display().to_string(), &error))?;
        let mut command = self.command(&self.settings);
        command.arg("--data-dir").arg(self.dir.join(&name)).args(["run", instance.processor.name()]);
        command.args(["--slot", &name]).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(|error| failed("starting a process", &error))?;
        self.note(instance, child.id().unwrap_or_default(), "started");
        self.running.insert(instance, Running { child, suspended: false, stopping: None, again: false });
        self.starts += 1;
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The system does not let us.
    pub(crate) async fn kill(&mut self, instance: Instance) -> EngineResult<()> {
        self.later.remove(&instance);
        let Some(mut running) = self.running.remove(&instance) else { return Ok(()) };
        let pid = running.child.id().unwrap_or_default();
        running.child.kill().await.map_err(|error| failed("kill", &error))?;
        self.note(instance, pid, "killed");
        Ok(())
    }

    /// SIGTERM: it ends in order, in its own time.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) async fn stop(&mut self, instance: Instance) -> EngineResult<()> {
        self.later.remove(&instance);
        let Some(running) = self.running.get_mut(&instance) else { return Ok(()) };
        running.stopping = Some(Instant::now());
        running.again = false;
        signal("TERM", &running.child.id().unwrap_or_default().to_string()).await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) async fn suspend(&mut self, instance: Instance) -> EngineResult<()> {
        let Some(running) = self.running.get_mut(&instance) else { return Ok(()) };
        running.suspended = true;
        signal("STOP", &running.child.id().unwrap_or_default().to_string()).await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) async fn go_on(&mut self, instance: Instance) -> EngineResult<()> {
        let Some(running) = self.running.get_mut(&instance) else { return Ok(()) };
        running.suspended = false;
        signal("CONT", &running.child.id().unwrap_or_default().to_string()).await
    }

    /// Looks after everybody. Those that ended although nobody told them to, or did not end in order although
    /// they were told to, with how.
    ///
    /// # Errors
    /// A process cannot be killed or started.
    pub(crate) async fn look(&mut self) -> EngineResult<Vec<(Instance, String)>> {
        let mut ended = Vec::new();
        for (instance, running) in &mut self.running {
            let overdue = running.stopping.is_some_and(|since| since.elapsed() > STOP_MAX);
            if overdue {
                running.child.kill().await.map_err(|error| failed("kill", &error))?;
            }
            if let Ok(Some(status)) = running.child.try_wait() {
                let (stopping, again) = (running.stopping.is_some(), running.again);
                ended.push((*instance, status, stopping, overdue, again));
            }
        }
        let now = Instant::now();
        let due: Vec<Instance> =
            self.later.iter().filter(|(_, at)| **at <= now).map(|(instance, _)| *instance).collect();
        for instance in due {
            self.start(instance)?;
        }
        let mut unexpected = Vec::new();
        for (instance, status, stopping, overdue, again) in ended {
            self.running.remove(&instance);
            let how = if overdue { "did not stop in time".to_owned() } else { status.to_string() };
            self.note(instance, 0, &format!("ended: {how}"));
            let in_order = stopping && (status.success() || status.code() == Some(TERMINATED));
            if status.code() == Some(UNAVAILABLE) && !overdue {
                // It was started while a server was away, and said so: whoever runs it tries again.
                self.gave_up += 1;
                if !stopping || again {
                    self.later.insert(instance, Instant::now() + AGAIN_AFTER);
                }
                continue;
            }
            if overdue || !in_order {
                unexpected.push((instance, how));
            }
            if again {
                self.start(instance)?;
            }
        }
        Ok(unexpected)
    }

    /// Those that found no server stay away.
    pub(crate) fn start_none_again(&mut self) {
        self.later.clear();
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<Instance> {
        self.running.keys().copied().collect()
    }

    /// Those that are suspended.
    pub(crate) fn suspended(&self) -> Vec<Instance> {
        self.running.iter().filter(|(_, running)| running.suspended).map(|(instance, _)| *instance).collect()
    }

    fn note(&self, instance: Instance, pid: u32, what: &str) {
        let what = what.to_owned();
        self.history.note(Event::Process { instance: instance.to_string(), pid, what });
    }
}
