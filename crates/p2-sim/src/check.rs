//! The promises, checked at every commit, at every write of rows and at the end.

use std::collections::{BTreeMap, BTreeSet};

use p2_core::ids::Id;
use p2_core::record::{ArtifactBody, InboxBody, Message, Payload, StateTransition, Topic, Verdict};
use p2_stream::ports::CommittedOffset;
use p2_stream::runtime::{OffsetMark, Progress};
use p2_stream::view::ViewRecord;

use crate::Topology;
use crate::actor::Outside;
use crate::chain::Chains;
use crate::log::{Shape, SimLog, Txn};
use crate::store::SimStore;

/// A group's move in one partition.
pub type Moved = (&'static str, i32, CommittedOffset);

/// What was seen so far.
#[derive(Default)]
pub struct Checker {
    chains: Chains,
    committed: BTreeSet<Id>,
    /// Input record id → verdicts of its outcomes.
    outcomes: BTreeMap<Id, Vec<Verdict>>,
    letters: BTreeMap<(String, i32, i64), u32>,
    progress: BTreeMap<(&'static str, i32), CommittedOffset>,
    /// Records from outside: (topic, partition, offset) → id.
    produced: BTreeMap<(Topic, i32, i64), (Id, Shape)>,
    /// Where inbox records lie in their right partition, by id: the first.
    places: BTreeMap<Id, i64>,
    topics: BTreeMap<&'static str, Topic>,
    window: i64,
}

impl Checker {
    /// Progress may span so many offsets.
    pub fn of_window(window: i64) -> Checker {
        Checker { window, ..Checker::default() }
    }

    /// A record from outside was appended.
    pub fn produced(&mut self, topic: Topic, partition: i32, offset: i64, message: &Message, shape: Shape) {
        self.produced.insert((topic, partition, offset), (message.id, shape));
    }

    /// The newest committed progress.
    pub fn progress(&self, group: &'static str, partition: i32) -> Option<CommittedOffset> {
        self.progress.get(&(group, partition)).cloned()
    }

    /// A transaction was committed.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn committed(
        &mut self,
        txn: Txn,
        positions: &[(Topic, i32, i64)],
        moved: &[Moved],
        log: &SimLog,
        topics: &[(&'static str, Topic)],
        topology: &dyn Topology,
    ) -> Result<(), String> {
        self.topics.extend(topics.iter().copied());
        let mut outputs = Vec::new();
        for (topic, partition, offset) in positions {
            let Some((message, _)) = log.at(*topic, *partition, *offset) else {
                return Err(format!("a committed record is not there: {topic:?}/{partition}/{offset}"));
            };
            self.output(txn, *partition, message, log, topology)?;
            outputs.push(message);
        }
        for (group, partition, committed) in moved {
            let Some(topic) = self.topics.get(group).copied() else { continue };
            self.moved(group, topic, *partition, committed, &outputs, log, topology)?;
        }
        Ok(())
    }

    fn output(
        &mut self,
        txn: Txn,
        partition: i32,
        message: &Message,
        log: &SimLog,
        topology: &dyn Topology,
    ) -> Result<(), String> {
        let forwarded = self.produced.values().any(|(id, _)| *id == message.id);
        let mut again = forwarded || topology.may_repeat(message);
        match &message.payload {
            Payload::Transition(transition) => self.transition(txn, partition, transition, log)?,
            Payload::Artifact(artifact) => {
                if let ArtifactBody::InputOutcome(outcome) = &artifact.body {
                    let verdicts = self.outcomes.entry(outcome.input).or_default();
                    verdicts.push(outcome.outcome.verdict);
                    again |= outcome.outcome.verdict == Verdict::Duplicate;
                    if verdicts.iter().filter(|verdict| **verdict != Verdict::Duplicate).count() > 1 {
                        return Err(format!("input {} has two outcomes", outcome.input));
                    }
                }
            }
            Payload::DeadLetter(letter) => {
                again = true;
                let count =
                    self.letters.entry((letter.topic.clone(), letter.partition, letter.offset)).or_default();
                *count += 1;
                if *count > 1 {
                    return Err(format!("two letters of {}/{}", letter.partition, letter.offset));
                }
            }
            // Who asks again is told again, under the same id.
            Payload::Inbox(inbox) => again |= matches!(inbox.body, InboxBody::PaymentResult(_)),
            _ => {}
        }
        if !self.committed.insert(message.id) && !again {
            return Err(format!("committed twice: {} {:?}", message.payload.topic().short(), message));
        }
        Ok(())
    }

    fn transition(
        &mut self,
        txn: Txn,
        partition: i32,
        transition: &StateTransition,
        log: &SimLog,
    ) -> Result<(), String> {
        let place = self.place(partition, transition.input, log);
        self.chains.follows(txn, place, transition)
    }

    /// Where an inbox record that got no letter first lies in the right partition; none where the input is no record.
    /// One that got a letter was not applied there, and may be sent again.
    fn place(&mut self, partition: i32, input: Id, log: &SimLog) -> Option<i64> {
        if let Some(offset) = self.places.get(&input) {
            return Some(*offset);
        }
        let found = log
            .decided(Topic::Inbox, partition)
            .into_iter()
            .find(|(offset, message, shape)| {
                let at = (Topic::Inbox.name(), partition, *offset);
                message.id == input && *shape == Shape::Plain && !self.letters.contains_key(&at)
            })
            .map(|(offset, ..)| offset)?;
        self.places.insert(input, found);
        Some(found)
    }

    #[allow(clippy::too_many_arguments, reason = "each names itself")]
    fn moved(
        &mut self,
        group: &'static str,
        topic: Topic,
        partition: i32,
        committed: &CommittedOffset,
        outputs: &[&Message],
        log: &SimLog,
        topology: &dyn Topology,
    ) -> Result<(), String> {
        let place = format!("{group}/{partition}");
        if committed.metadata.len() > 4_096 {
            return Err(format!("{place}: metadata of {} bytes", committed.metadata.len()));
        }
        let now = Progress::decode(committed)?;
        if now.span() > self.window {
            return Err(format!("{place}: progress spans {} offsets of {}", now.span(), self.window));
        }
        let before = match self.progress.get(&(group, partition)) {
            Some(committed) => Progress::decode(committed)?,
            None => Progress::at(0),
        };
        if now.low < before.low {
            return Err(format!("{place}: progress went back from {} to {}", before.low, now.low));
        }
        let last = now.low.max(now.low + now.span()).max(before.low + before.span());
        for offset in before.low..last {
            let (was, is) = (before.mark_of(offset), now.mark_of(offset));
            if was.is_some() && is.is_none() || was == Some(OffsetMark::Done) && is != was {
                return Err(format!("{place}: offset {offset} went from {was:?} to {is:?}"));
            }
            if is != Some(OffsetMark::Done) || was == is {
                continue;
            }
            let Some((message, _)) = log.at(topic, partition, offset) else {
                if offset >= log.stable(topic, partition) {
                    return Err(format!("{place}: offset {offset} is done before it can be read"));
                }
                continue;
            };
            let answered = outputs.iter().any(|output| match &output.payload {
                Payload::DeadLetter(letter) => letter.partition == partition && letter.offset == offset,
                _ => topology.answers(output, message),
            });
            if !answered && topology.is_answered(message) {
                return Err(format!("{place}: offset {offset} is done without an answer: {message:?}"));
            }
        }
        self.progress.insert((group, partition), committed.clone());
        Ok(())
    }

    /// Rows are about to be written.
    ///
    /// # Errors
    /// Rows of uncommitted records, or an applied offset ahead of its rows.
    pub fn rows(
        &self,
        log: &SimLog,
        store: &SimStore,
        partition: i32,
        rows: &[(i64, StateTransition)],
        applied: i64,
    ) -> Result<(), String> {
        for (offset, transition) in rows {
            let same = log.at(Topic::StateTransitions, partition, *offset).is_some_and(
                |(message, _)| matches!(&message.payload, Payload::Transition(known) if known == transition),
            );
            if !same {
                return Err(format!("row {partition}/{offset} is of no committed record"));
            }
        }
        let written: BTreeSet<i64> = store.rows(partition).into_iter().map(|(offset, _)| offset).collect();
        for offset in store.applied(partition)..applied {
            if log.at(Topic::StateTransitions, partition, offset).is_some()
                && !written.contains(&offset)
                && !rows.iter().any(|(row, _)| *row == offset)
            {
                return Err(format!("applied {applied} of partition {partition} without row {offset}"));
            }
        }
        Ok(())
    }

    /// Transactions are about to be taken into the books of a process.
    ///
    /// # Errors
    /// One that is not committed, or a committed one that is passed over.
    pub fn transactions(
        &self,
        log: &SimLog,
        partition: i32,
        before: i64,
        records: &[(i64, ViewRecord)],
        applied: i64,
    ) -> Result<(), String> {
        let topic = Topic::LedgerTransactions;
        for (offset, record) in records {
            let found = log.at(topic, partition, *offset);
            let same = found.and_then(|(message, _)| ViewRecord::of(message.payload.clone()));
            if same.as_ref() != Some(record) {
                return Err(format!("transaction {partition}/{offset} is of no committed record"));
            }
        }
        let taken: BTreeSet<i64> = records.iter().map(|(offset, _)| *offset).collect();
        match (before..applied).find(|at| log.at(topic, partition, *at).is_some() && !taken.contains(at)) {
            Some(offset) => Err(format!("the books of {partition} reach {applied} without {offset}")),
            None => Ok(()),
        }
    }

    /// Everything has come to rest.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn end(
        &self,
        log: &SimLog,
        store: &SimStore,
        outside: &Outside,
        groups: &[(&'static str, Topic)],
        topology: &dyn Topology,
    ) -> Result<(), String> {
        for partition in 0..log.count {
            let truth: Vec<i64> = log
                .decided(Topic::StateTransitions, partition)
                .into_iter()
                .map(|(offset, ..)| offset)
                .collect();
            let rows: Vec<i64> = store.rows(partition).into_iter().map(|(offset, _)| offset).collect();
            if truth != rows {
                return Err(format!("partition {partition}: the store has {rows:?}, the log {truth:?}"));
            }
            for (group, topic) in groups {
                self.all_done(group, *topic, partition, log)?;
            }
        }
        for (key, transitions) in self.chains.iter() {
            topology.check(transitions, outside).map_err(|reason| format!("{key}: {reason}"))?;
        }
        if let Some((id, count)) = outside.once.iter().find(|(_, count)| **count > 1) {
            return Err(format!("call {id} may be started once and was {count} times"));
        }
        topology.check_log(log)?;
        self.all_answered(log, topology)
    }

    /// Every record that stands in a group's partition is done.
    ///
    /// # Errors
    /// The first that is not.
    pub fn all_done(
        &self,
        group: &'static str,
        topic: Topic,
        partition: i32,
        log: &SimLog,
    ) -> Result<(), String> {
        let progress = match self.progress.get(&(group, partition)) {
            Some(committed) => Progress::decode(committed)?,
            None => Progress::at(0),
        };
        match log
            .decided(topic, partition)
            .into_iter()
            .find(|(offset, ..)| progress.mark_of(*offset) != Some(OffsetMark::Done))
        {
            Some((offset, message, _)) => {
                Err(format!("{group}/{partition}: offset {offset} is not done: {message:?}"))
            }
            None => Ok(()),
        }
    }

    fn all_answered(&self, log: &SimLog, topology: &dyn Topology) -> Result<(), String> {
        let mut copies: BTreeMap<Id, usize> = BTreeMap::new();
        for partition in 0..log.count {
            for (offset, message, shape) in log.decided(Topic::Inbox, partition) {
                let lettered = self.letters.contains_key(&(Topic::Inbox.name(), partition, offset));
                if (shape == Shape::Poison) && !lettered {
                    return Err(format!("poison at {partition}/{offset} has no letter"));
                }
                if shape == Shape::Plain && !lettered && log.partition_of(message.payload.key()) == partition
                {
                    *copies.entry(message.id).or_default() += 1;
                }
            }
            for (offset, _, shape) in log.decided(Topic::PaymentRequests, partition) {
                let at = (Topic::PaymentRequests.name(), partition, offset);
                if shape == Shape::Poison && !self.letters.contains_key(&at) {
                    return Err(format!(
                        "poison at {partition}/{offset} of the payment requests has no letter"
                    ));
                }
            }
            for (offset, message, _) in log.decided(Topic::Effects, partition) {
                let lettered = self.letters.contains_key(&(Topic::Effects.name(), partition, offset));
                let inbox = log.decided(Topic::Inbox, partition);
                let count = inbox.iter().filter(|(_, output, _)| topology.answers(output, message)).count();
                if topology.is_answered(message) && !lettered && count != 1 {
                    return Err(format!("effect {} has {count} answers", message.id));
                }
            }
        }
        for (id, copies) in copies {
            let verdicts = self.outcomes.get(&id).map(Vec::as_slice).unwrap_or_default();
            let first = verdicts.iter().filter(|verdict| **verdict != Verdict::Duplicate).count();
            if first != 1 || verdicts.len() != copies {
                return Err(format!("input {id} lies there {copies} times and has outcomes {verdicts:?}"));
            }
        }
        Ok(())
    }
}
