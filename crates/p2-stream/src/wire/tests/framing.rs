//! Registry framing: golden bytes, both ways, and what is not ours.

use super::*;

fn ids() -> SchemaIds {
    let mut ids = SchemaIds::default();
    for (topic, id) in Topic::ALL.into_iter().zip(101..) {
        ids.registered(id, schema(topic).unwrap().1);
    }
    ids
}

#[test]
fn every_record_comes_back_from_registry_framing_byte_for_byte() {
    let ids = ids();
    for (name, message) in samples() {
        let record = encode(&message, "/p2/test", 16).unwrap();
        let mut framed = record.value.clone();
        ids.frame(&mut framed);
        let id = 101 + u32::try_from(Topic::ALL.iter().position(|of| *of == record.topic).unwrap()).unwrap();
        assert_eq!(framed[..5], [&[0], id.to_be_bytes().as_slice()].concat(), "{name}");
        assert_eq!(framed[5..], record.value[10..], "{name}");
        assert_eq!(ids.unframe(record.topic, &mut framed), Framing::Settled, "{name}");
        assert_eq!(framed, record.value, "{name}");
    }
}

#[test]
fn single_object_encoding_is_left_as_it_is_on_the_way_in() {
    for (name, message) in samples() {
        let record = encode(&message, "/p2/test", 16).unwrap();
        let mut value = record.value.clone();
        assert_eq!(ids().unframe(record.topic, &mut value), Framing::Settled, "{name}");
        assert_eq!(value, record.value, "{name}");
    }
}

#[test]
fn a_schema_without_an_id_is_written_in_single_object_encoding() {
    let (_, message) = samples().remove(0);
    let record = encode(&message, "/p2/test", 16).unwrap();
    let mut value = record.value.clone();
    SchemaIds::default().frame(&mut value);
    assert_eq!(value, record.value);
    let mut tombstone = Vec::new();
    ids().frame(&mut tombstone);
    assert_eq!((ids().unframe(Topic::Registry, &mut tombstone), tombstone), (Framing::Settled, Vec::new()));
}

#[test]
fn a_record_of_an_older_version_is_read_by_the_id_of_its_schema() {
    let effects = samples().into_iter().find(|(_, message)| message.payload.topic() == Topic::Effects);
    let (_, mut message) = effects.unwrap();
    // Older versions know no reservation: without one its last byte says that there is none.
    let Payload::Effect(effect) = &mut message.payload else { panic!() };
    effect.reservation = None;
    let mut record = encode(&message, "/p2/test", 16).unwrap();
    assert_eq!(record.value.pop(), Some(0));
    let older = *schemas::of(Topic::Effects).unwrap().older.keys().next().unwrap();
    let mut ids = ids();
    let mut value = [&[0, 0, 0, 0, 7], &record.value[10..]].concat();
    assert_eq!(ids.unframe(Topic::Effects, &mut value), Framing::Ask(7));
    ids.found(7, Some(older));
    assert_eq!(ids.unframe(Topic::Effects, &mut value), Framing::Settled);
    assert_eq!(value[..10], [&MARKER, older.as_slice()].concat());
    assert_eq!(decode_payload(Topic::Effects, &value).unwrap(), message.payload);
}

#[test]
fn an_id_that_is_not_known_of_another_topic_or_of_nobody_is_a_clear_reason() {
    let (_, message) = samples().remove(0);
    let record = encode(&message, "/p2/test", 16).unwrap();
    let effects =
        101 + u32::try_from(Topic::ALL.iter().position(|of| *of == Topic::Effects).unwrap()).unwrap();
    let mut ids = ids();
    ids.found(8, None);
    for id in [8, effects] {
        let mut value = [&[0], id.to_be_bytes().as_slice(), &record.value[10..]].concat();
        let before = value.clone();
        assert_eq!(ids.unframe(Topic::Inbox, &mut value), Framing::Settled);
        assert_eq!(value, before);
        let error = decode(&stored(NewRecord { value, ..record.clone() })).unwrap_err();
        assert_eq!(error.code(), "unknown_schema_id");
        assert!(error.to_string().starts_with(&format!("schema id {id} of the registry")), "{error}");
    }
    let mut short = vec![0, 0, 0, 1];
    assert_eq!(ids.unframe(Topic::Inbox, &mut short), Framing::Settled);
    let error = decode(&stored(NewRecord { value: short, ..record })).unwrap_err();
    assert_eq!(error, WireError::NotSingleObject);
}

#[test]
fn the_fingerprint_of_a_schema_does_not_depend_on_its_documentation() {
    let (text, expected) = schema(Topic::Inbox).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    json.as_object_mut().unwrap().remove("doc");
    assert_eq!(fingerprint(&json.to_string()), Ok(expected));
    assert!(fingerprint("{").is_err());
    assert_ne!(fingerprint(r#"{"type": "record", "name": "Other", "fields": []}"#), Ok(expected));
}
