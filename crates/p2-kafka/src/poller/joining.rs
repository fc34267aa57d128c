//! How a member's consumer joins its group, and joins again where the broker takes another for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2_core::record::Topic;
use p2_stream::ports::LogError;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;

use super::{Command, Notice, Poller};
use crate::callbacks::{Callbacks, Client, Shared};
use crate::config::{self, KafkaConfig};
use crate::records::Names;

/// How often the broker may take another for this member, within that time, before the slot counts as taken.
const FENCES_MAX: usize = 3;
const FENCES_WITHIN: Duration = Duration::from_secs(60);
/// What is waited after the first of them; twice that after the second.
const FENCED_PAUSE: Duration = Duration::from_secs(1);

/// What a member's consumer is made from.
pub(super) struct Recipe {
    pub(super) config: KafkaConfig,
    pub(super) names: Names,
    pub(super) shared: Arc<Shared>,
    pub(super) group: String,
    pub(super) instance: String,
    pub(super) topics: Vec<Topic>,
}

impl Recipe {
    /// A consumer that joins the group.
    pub(super) fn consumer(&self) -> Result<Arc<Client>, LogError> {
        let commit_max = Duration::from_millis(u64::from(self.config.transaction_timeout_ms) * 2);
        let callbacks = Callbacks::new(self.names.clone(), Arc::clone(&self.shared), commit_max);
        let made =
            Client::from_config_and_context(&self.config.member(&self.group, &self.instance), callbacks);
        let client = Arc::new(made.map_err(|error| config::property(&error))?);
        let subscription: Vec<&str> = self.topics.iter().map(|topic| self.names.of(*topic)).collect();
        client
            .subscribe(&subscription)
            .map_err(|error| LogError::Refused(format!("group {} cannot be joined: {error}", self.group)))?;
        self.shared.state().client = Some(Arc::clone(&client));
        Ok(client)
    }
}

/// Why a consumer is of no use any more.
pub(super) enum Trouble {
    /// The broker takes another for this member.
    Fenced,
    /// The member is of no use either.
    Failed(LogError),
}

impl Poller {
    /// Joins with a new consumer, after a pause that grows: what fenced this one may have been a coordinator that
    /// came back with an old state of the group. Where it happens again and again, the slot is another process's too.
    /// False where the member closes meanwhile.
    pub(super) async fn join_again(&mut self) -> Result<bool, LogError> {
        let now = Instant::now();
        self.fenced.retain(|at| now.duration_since(*at) < FENCES_WITHIN);
        self.fenced.push(now);
        if self.fenced.len() > FENCES_MAX {
            return Err(LogError::Refused(format!(
                "another process runs with the slot '{}': give each process its own kafka.slot",
                self.config.slot
            )));
        }
        tracing::warn!(slot = self.config.slot, "the broker takes another for this member: joining again");
        {
            let callbacks = self.client.context();
            callbacks.retire();
            let mut state = self.shared.wait_for_commit(callbacks.commit_max);
            state.client = None;
            for (lane, lane_state) in std::mem::take(&mut self.lanes) {
                state.ownership.revoke(lane);
                if lane_state.announced {
                    let _ = self.notices.send(Notice::Revoked { lane });
                }
            }
        }
        let until =
            tokio::time::Instant::now() + FENCED_PAUSE * u32::try_from(self.fenced.len()).unwrap_or(1);
        while let Ok(command) = tokio::time::timeout_at(until, self.commands.recv()).await {
            match command {
                None | Some(Command::Close) => return Ok(false),
                Some(Command::Fail(error)) => return Err(error),
                Some(_) => {} // of partitions that are gone
            }
        }
        self.client = self.recipe.consumer()?;
        Ok(true)
    }
}
