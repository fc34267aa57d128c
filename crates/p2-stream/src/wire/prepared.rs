//! Writers and readers of the schemas in force, made once: to resolve the names of a schema costs more than to
//! write a record.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use p2_core::record::Topic;

use super::schemas;

struct Prepared {
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

fn of(topic: Topic) -> Result<&'static Prepared, String> {
    static PREPARED: OnceLock<Result<BTreeMap<Topic, Prepared>, String>> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| Topic::ALL.into_iter().map(prepare).collect());
    let all = prepared.as_ref().map_err(Clone::clone)?;
    all.get(&topic).ok_or_else(|| format!("topic '{}' has no schema", topic.short()))
}

fn prepare(topic: Topic) -> Result<(Topic, Prepared), String> {
    let schema = &schemas::of(topic)?.current.schema;
    let failed = |error: apache_avro::Error| format!("schema of '{}': {error}", topic.short());
    let writer = GenericDatumWriter::builder(schema).build().map_err(failed)?;
    let reader = GenericDatumReader::builder(schema).build().map_err(failed)?;
    Ok((topic, Prepared { writer, reader }))
}

/// Writes data with the schema in force.
///
/// # Errors
/// A sentence where the schema cannot be used; a test rules that out for those that ship.
pub(super) fn writer(topic: Topic) -> Result<&'static GenericDatumWriter<'static>, String> {
    of(topic).map(|prepared| &prepared.writer)
}

/// Reads data that the schema in force wrote.
///
/// # Errors
/// As [`writer`].
pub(super) fn reader(topic: Topic) -> Result<&'static GenericDatumReader<'static>, String> {
    of(topic).map(|prepared| &prepared.reader)
}
