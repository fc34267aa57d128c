//! What is known of a registry, shared by everything that reads and writes one log.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use p2_core::record::Topic;
use p2_stream::ports::{LogError, NewRecord, StoredRecord};
use p2_stream::wire::{self, Framing, SchemaIds};

use crate::client::{RegistryError, Schemas};

/// Pauses between two questions to a registry that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Registers the schemas in force of all topics under `<topic>-value` (`name_of` gives the topic's name at the
/// broker). Doing it again changes nothing.
///
/// # Errors
/// Where the registry does not answer, or refuses one.
pub async fn register(
    registry: &dyn Schemas,
    name_of: impl Fn(Topic) -> String + Send,
) -> Result<SchemaIds, RegistryError> {
    let mut ids = SchemaIds::default();
    for topic in Topic::ALL {
        let (text, fingerprint) =
            wire::schema(topic).map_err(|error| RegistryError::Refused(error.to_string()))?;
        let subject = format!("{}-value", name_of(topic));
        ids.registered(registry.register(&subject, text).await?, fingerprint);
    }
    Ok(ids)
}

/// Ids, and where to ask for more. Clones share both.
#[derive(Clone)]
pub(crate) struct Ids {
    registry: Arc<dyn Schemas>,
    known: Arc<RwLock<Arc<SchemaIds>>>,
    /// One question at a time, so that an id is asked for once.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Ids {
    pub(crate) fn new(registry: Arc<dyn Schemas>, known: SchemaIds) -> Ids {
        Ids { registry, known: Arc::new(RwLock::new(Arc::new(known))), asking: Arc::default() }
    }

    fn known(&self) -> Arc<SchemaIds> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts registry framing on.
    pub(crate) fn frame(&self, records: &mut [NewRecord]) {
        let known = self.known();
        for record in records {
            known.frame(&mut record.value);
        }
    }

    /// Takes registry framing off, as far as ids are known. Gives an id that is not.
    pub(crate) fn unframe(&self, records: &mut [StoredRecord]) -> Option<u32> {
        let known = self.known();
        let mut unknown = None;
        for stored in records {
            let record = &mut stored.record;
            if let Framing::Ask(id) = known.unframe(record.topic, &mut record.value) {
                unknown = unknown.or(Some(id));
            }
        }
        unknown
    }

    /// Asks what an id is, unless that is known by now.
    pub(crate) async fn ask(&self, id: u32) -> Result<(), RegistryError> {
        let _turn = self.asking.lock().await;
        if self.known().knows(id) {
            return Ok(());
        }
        let schema = self.registry.schema(id).await?;
        let fingerprint = schema.and_then(|text| wire::fingerprint(&text).ok());
        if fingerprint.is_none() {
            tracing::warn!(target: "p2engine", id, "the schema registry has no Avro schema of this id");
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut known).found(id, fingerprint);
        Ok(())
    }

    /// Asks until the registry answers.
    pub(crate) async fn ask_patiently(&self, id: u32) -> Result<(), LogError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.ask(id).await {
                Err(error @ RegistryError::Unavailable { .. }) => {
                    tracing::warn!(target: "p2engine", id, %error, "a record waits for its schema");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(RegistryError::Refused(reason)) => return Err(LogError::Refused(reason)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Takes registry framing off; asks once for what is not known. May be dropped and called again.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where the registry does not answer, [`LogError::Refused`].
    pub(crate) async fn settle(&self, records: &mut [StoredRecord]) -> Result<(), LogError> {
        while let Some(id) = self.unframe(records) {
            self.ask(id).await.map_err(|error| match error {
                RegistryError::Unavailable { .. } => LogError::Unavailable(error.to_string()),
                RegistryError::Refused(reason) => LogError::Refused(reason),
            })?;
        }
        Ok(())
    }
}
