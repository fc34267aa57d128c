//! Where a view is read again from: before the store's applied offset, by the log's own time.

use p2_core::record::Topic;

use crate::ports::{Log, LogError, StoredRecord};

/// Offsets that are read again whatever their times say: a clock that was set forward just before the newest
/// record makes the ones before it look old.
const OFFSETS_MIN: i64 = 100;

/// The offset from which one partition of a view is read again, so that every record committed within `resync_ms`
/// before the newest one below `applied` lies at or above it.
///
/// Time is that of the records and not of the wall clock, since a log may have been at rest for days; only a
/// record from the future counts as one of now, as it would hide the records before it. Never above `applied`,
/// never below the log's start, unless the view was applied up to below it: then it is `applied`, and reading
/// there says what is missing. Where times do not ascend it may lie too high by what the clocks of the writers
/// differ; `resync_ms` is to have room for that.
///
/// # Errors
/// Those of the log.
pub(super) async fn start(
    log: &dyn Log,
    view: Topic,
    partition: i32,
    applied: i64,
    resync_ms: i64,
    now_ms: i64,
) -> Result<i64, LogError> {
    let (start, _) = log.bounds(view, partition).await?;
    if applied <= start || resync_ms <= 0 {
        return Ok(applied);
    }
    let Some(newest) = below(log, view, partition, start, applied).await? else { return Ok(applied) };
    let since = newest.record.time_ms.min(now_ms).saturating_sub(resync_ms);
    let by_time = log.offset_at(view, partition, since).await?;
    Ok(by_time.min(newest.offset).min(applied.saturating_sub(OFFSETS_MIN)).max(start))
}

/// The newest committed record below `applied`, or one just before it where transaction markers and aborted
/// records lie in between; none where nothing is kept there.
async fn below(
    log: &dyn Log,
    view: Topic,
    partition: i32,
    start: i64,
    applied: i64,
) -> Result<Option<StoredRecord>, LogError> {
    let mut back = 1;
    loop {
        let from = applied.saturating_sub(back).max(start);
        let found = log.read(view, partition, from, 1).await?.into_iter().next();
        if let Some(found) = found.filter(|found| found.offset < applied) {
            return Ok(Some(found));
        }
        if from == start {
            return Ok(None);
        }
        back = back.saturating_mul(4);
    }
}

#[cfg(test)]
mod tests;
