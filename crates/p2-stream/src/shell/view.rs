//! Reads and writes of the view. Outages of store and log are waited out.

use std::time::Duration;

use p2_core::record::Topic;

use super::gauge::Gauge;
use super::{Note, ShellError, Views, Wire, now_ms, resync};
use crate::metrics::Metric;
use crate::outage::{self, Part};
use crate::ports::{Log, LogError, StoreError};
use crate::runtime::{Action, Event};

/// View records read at a time.
const VIEW_RECORDS_MAX: usize = 1_000;
/// First and longest pause between two tries of a store or log that is away, milliseconds.
const RETRY_PAUSE_MS: (u64, u64) = (20, 5_000);

/// Carries out an action on the view and gives the event that answers it.
///
/// # Errors
/// [`Note::Failed`] where the view cannot be read, ever; [`Note::Rebuilt`] where it was rebuilt.
pub(super) async fn event<Q, R>(
    action: &Action<Q>,
    view: Topic,
    log: &dyn Log,
    store: &Views,
    wire: &impl Wire,
    gauge: &Gauge,
    follows: u64,
) -> Result<Event<R>, Note>
where
    Q: Sync,
{
    let (mut pause_ms, pause_max_ms) = RETRY_PAUSE_MS;
    loop {
        match once(action, view, log, store, wire).await {
            Ok(event) => {
                outage::answered(Part::Store);
                return Ok(event);
            }
            Err(ViewError::Away(part, reason)) => {
                gauge.metrics.add(Metric::PortRetries, &[gauge.name], 1.0);
                outage::met(part, &reason);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(pause_max_ms);
            }
            Err(ViewError::Rebuilt(reason)) => {
                tracing::warn!(processor = gauge.name, reason, "the view was rebuilt");
                return Err(Note::Rebuilt(follows));
            }
            Err(ViewError::Broken(reason)) => return Err(Note::Failed(ShellError::View(reason))),
        }
    }
}

/// Goes over to the generation of the view that is read now; outages are waited out.
///
/// # Errors
/// Where that is not possible, ever.
pub(super) async fn follow(store: &Views, gauge: &Gauge) -> Result<(), ShellError> {
    let (mut pause_ms, pause_max_ms) = RETRY_PAUSE_MS;
    loop {
        match store.follow().await {
            Ok(()) => return Ok(()),
            Err(StoreError::Unavailable(reason)) => {
                gauge.metrics.add(Metric::PortRetries, &[gauge.name], 1.0);
                outage::met(Part::Store, &reason);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(pause_max_ms);
            }
            Err(other) => return Err(ShellError::View(other.to_string())),
        }
    }
}

enum ViewError {
    Away(Part, String),
    Rebuilt(String),
    Broken(String),
}

impl From<StoreError> for ViewError {
    fn from(error: StoreError) -> ViewError {
        match error {
            StoreError::Unavailable(reason) => ViewError::Away(Part::Store, reason),
            StoreError::Rebuilt(reason) => ViewError::Rebuilt(reason),
            StoreError::Foreign(reason) | StoreError::Corrupt(reason) => ViewError::Broken(reason),
        }
    }
}

impl From<LogError> for ViewError {
    fn from(error: LogError) -> ViewError {
        match error {
            LogError::Unavailable(reason) => ViewError::Away(Part::Log, reason),
            other => ViewError::Broken(other.to_string()),
        }
    }
}

async fn once<Q, R>(
    action: &Action<Q>,
    view: Topic,
    log: &dyn Log,
    store: &Views,
    wire: &impl Wire,
) -> Result<Event<R>, ViewError>
where
    Q: Sync,
{
    match action {
        Action::ReadViewBounds { partition, epoch, resync_ms } => {
            let (partition, epoch) = (*partition, *epoch);
            let applied = store.applied(partition).await?;
            let (_, mark) = log.bounds(view, partition).await?;
            let from = if applied > mark {
                applied
            } else {
                resync::start(log, view, partition, applied, *resync_ms, now_ms()).await?
            };
            Ok(Event::ViewBounds { partition, epoch, applied, mark, from })
        }
        Action::ReadView { partition, epoch, from } => {
            let read = || log.read_values(view, *partition, *from, VIEW_RECORDS_MAX);
            let (mut records, mut next) = (read().await?, *from);
            if records.is_empty() {
                // Nothing is there below the end as it was before a read that found nothing.
                next = log.bounds(view, *partition).await?.1;
                records = read().await?;
            }
            next = records.last().map_or(next, |last| last.offset + 1);
            let mut found = Vec::with_capacity(records.len());
            for stored in records {
                let record = wire.view_record(&stored).map_err(|reason| {
                    let at = stored.position();
                    ViewError::Broken(format!("{}/{}/{}: {reason}", at.topic.name(), at.partition, at.offset))
                })?;
                found.push((stored.offset, record));
            }
            Ok(Event::ViewRecords { partition: *partition, epoch: *epoch, records: found, next })
        }
        Action::WriteView { partition, epoch, records, applied } => {
            store.write(*partition, records, *applied).await?;
            Ok(Event::ViewWritten { partition: *partition, epoch: *epoch, applied: *applied })
        }
        Action::ListOpenLanes { partition, epoch } => {
            let keys = store.open(*partition).await?;
            Ok(Event::OpenLanes { partition: *partition, epoch: *epoch, keys })
        }
        Action::Load { partition, epoch, key } => {
            let rows = store.load(key).await?;
            Ok(Event::Loaded { partition: *partition, epoch: *epoch, key: key.clone(), rows })
        }
        _ => Err(ViewError::Broken("not an action on a view".to_owned())),
    }
}
