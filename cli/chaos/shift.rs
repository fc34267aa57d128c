//! Carries a plan out: each fault at its time, each healing at its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::history::{Event, History};
use super::plan::{Fault, Instance, Plan, Processor, STEADY, Service};
use super::processes::Processes;
use super::proxy::Proxy;
use super::services::{Server, stop_all};
use crate::engine::EngineResult;
use crate::output::Output;

/// What heals a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Healing {
    Start(Instance),
    GoOn(Instance),
    StartServer(Service, usize),
    Connect(Service),
}

/// A server and the proxy before it; none where somebody else runs it.
pub(crate) struct Behind {
    /// The server.
    pub(crate) server: Server,
    /// Between it and the processes.
    pub(crate) proxy: Proxy,
}

/// The system under fire.
pub(crate) struct Shift {
    /// The processes.
    pub(crate) processes: Processes,
    /// The brokers: one, several of one cluster, or none where somebody else runs them.
    pub(crate) brokers: Vec<Behind>,
    /// The CQL server.
    pub(crate) store: Option<Behind>,
    /// The history.
    pub(crate) history: Arc<History>,
    /// For a line per fault.
    pub(crate) out: Output,
    /// Faults by kind.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Processes that ended although nobody told them to.
    pub(crate) ended: Vec<String>,
    /// Faults of servers so far: of several brokers each has its turn.
    turns: usize,
    healings: Vec<(u64, Healing)>,
    /// Servers are started beside everything else, which takes them a while.
    starting: Vec<(Service, tokio::task::JoinHandle<EngineResult<()>>)>,
}

impl Shift {
    /// Nothing has happened yet.
    pub(crate) fn new(
        processes: Processes,
        brokers: Vec<Behind>,
        store: Option<Behind>,
        history: Arc<History>,
        out: Output,
    ) -> Shift {
        Shift {
            processes,
            brokers,
            store,
            history,
            out,
            turns: 0,
            counts: BTreeMap::new(),
            ended: Vec::new(),
            healings: Vec::new(),
            starting: Vec::new(),
        }
    }

    /// Starts the processes that are there from beginning to end.
    ///
    /// # Errors
    /// One cannot be started.
    pub(crate) fn begin(&mut self) -> EngineResult<()> {
        for processor in Processor::ALL {
            for slot in 0..STEADY {
                self.processes.start(Instance { processor, slot })?;
            }
        }
        Ok(())
    }

    /// Does everything that is due at `now_ms` (since the faults began). `next` is the first fault of the plan
    /// that was not caused yet.
    ///
    /// # Errors
    /// A process or server cannot be started, or a signal cannot be sent.
    pub(crate) async fn tick(&mut self, plan: &Plan, next: &mut usize, now_ms: u64) -> EngineResult<()> {
        while let Some(due) = plan.faults.get(*next).filter(|due| due.at_ms <= now_ms) {
            *next += 1;
            self.cause(due.fault, now_ms).await?;
        }
        let (due, later): (Vec<_>, Vec<_>) = self.healings.iter().partition(|(at, _)| *at <= now_ms);
        self.healings = later;
        for (_, healing) in due {
            self.heal(healing).await?;
        }
        self.watch_over(now_ms).await?;
        self.settle_starts().await
    }

    fn behind(&self, service: Service) -> &[Behind] {
        match service {
            Service::Broker => &self.brokers,
            Service::Store => self.store.as_slice(),
        }
    }

    /// Which of a service's servers has the next fault.
    fn turn(&mut self, service: Service) -> usize {
        self.turns += 1;
        self.turns % self.behind(service).len().max(1)
    }

    /// Whether a server was killed and does not answer yet.
    fn is_down(&self, service: Service) -> bool {
        let to_start =
            |(_, healing): &(u64, Healing)| matches!(healing, Healing::StartServer(of, _) if *of == service);
        self.healings.iter().any(to_start) || self.starting.iter().any(|(of, _)| *of == service)
    }

    async fn cause(&mut self, fault: Fault, now_ms: u64) -> EngineResult<()> {
        if let Fault::KillService { service, .. } = fault
            && self.is_down(service)
        {
            // On a slow machine a server may take longer to come back than the plan leaves it.
            return Ok(());
        }
        *self.counts.entry(fault.kind()).or_default() += 1;
        self.history.note(Event::Fault(fault));
        self.out.remark(&format!("{:>7.1} s  {fault}", now_ms as f64 / 1_000.0));
        let (ms, healing) = match fault {
            Fault::Kill { instance, down_ms } => {
                self.processes.kill(instance).await?;
                (down_ms, Healing::Start(instance))
            }
            Fault::Suspend { instance, ms } => {
                self.processes.suspend(instance).await?;
                (ms, Healing::GoOn(instance))
            }
            Fault::Add { instance } => return self.processes.start(instance),
            Fault::Remove { instance } => return self.processes.stop(instance).await,
            Fault::KillService { service, down_ms } => {
                let turn = self.turn(service);
                if let Some(behind) = self.behind(service).get(turn) {
                    behind.server.kill().await?;
                }
                (down_ms, Healing::StartServer(service, turn))
            }
            Fault::Cut { service, percent } => {
                for behind in self.behind(service) {
                    behind.proxy.cut(percent);
                }
                return Ok(());
            }
            Fault::Refuse { service, ms } => (ms, self.disconnect(service, Proxy::refuse)),
            Fault::Mute { service, ms } => (ms, self.disconnect(service, Proxy::mute)),
            Fault::Stall { service, ms } => (ms, self.disconnect(service, Proxy::stall)),
        };
        self.healings.push((now_ms + ms, healing));
        Ok(())
    }

    /// Of several brokers one is cut off from its clients: it leads on, as the others see it.
    fn disconnect(&mut self, service: Service, how: fn(&Proxy)) -> Healing {
        let turn = self.turn(service);
        if let Some(behind) = self.behind(service).get(turn) {
            how(&behind.proxy);
        }
        Healing::Connect(service)
    }

    async fn heal(&mut self, healing: Healing) -> EngineResult<()> {
        match healing {
            Healing::Start(instance) => self.processes.start(instance),
            Healing::GoOn(instance) => self.processes.go_on(instance).await,
            Healing::Connect(service) => {
                for behind in self.behind(service) {
                    behind.proxy.heal();
                }
                Ok(())
            }
            Healing::StartServer(service, turn) => {
                if let Some(server) = self.behind(service).get(turn).map(|behind| behind.server.clone()) {
                    let history = Arc::clone(&self.history);
                    let start = tokio::spawn(async move {
                        server.start().await?;
                        history.note(Event::Note { what: format!("the {} is back", service.name()) });
                        Ok(())
                    });
                    self.starting.push((service, start));
                }
                Ok(())
            }
        }
    }

    /// A process that ended by itself is started again, as whoever runs it would, and remembered.
    async fn watch_over(&mut self, now_ms: u64) -> EngineResult<()> {
        for (instance, status) in self.processes.look().await? {
            let what = format!("{instance} ended by itself ({status}) at {:.1} s", now_ms as f64 / 1_000.0);
            self.out.remark(&what);
            self.ended.push(what);
            self.healings.push((now_ms + 500, Healing::Start(instance)));
        }
        Ok(())
    }

    async fn settle_starts(&mut self) -> EngineResult<()> {
        let (done, under_way): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.starting).into_iter().partition(|(_, start)| start.is_finished());
        self.starting = under_way;
        for (_, start) in done {
            start
                .await
                .unwrap_or_else(|error| Err(crate::engine::EngineError::Internal(error.to_string())))?;
        }
        Ok(())
    }

    /// Everything that is broken or held up is set going, at once.
    ///
    /// # Errors
    /// A server or process does not start.
    pub(crate) async fn heal_all(&mut self) -> EngineResult<()> {
        for (_, healing) in std::mem::take(&mut self.healings) {
            self.heal(healing).await?;
        }
        for instance in self.processes.suspended() {
            self.processes.go_on(instance).await?;
        }
        for (_, start) in std::mem::take(&mut self.starting) {
            start
                .await
                .unwrap_or_else(|error| Err(crate::engine::EngineError::Internal(error.to_string())))?;
        }
        self.begin()
    }

    /// Stops every process in order, and waits for that.
    ///
    /// # Errors
    /// A process cannot be stopped.
    pub(crate) async fn end(&mut self) -> EngineResult<()> {
        self.processes.start_none_again();
        for instance in self.processes.running() {
            self.processes.stop(instance).await?;
        }
        while !self.processes.running().is_empty() {
            for (instance, how) in self.processes.look().await? {
                self.ended.push(format!("{instance} did not stop in order: {how}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Stops the servers.
    pub(crate) async fn stop_servers(&self) {
        stop_all(self.brokers.iter().chain(&self.store).map(|behind| &behind.server)).await;
    }
}
