//! Evolution: what older versions of the program wrote is read for ever.
//!
//! There are few published versions so far, so older ones are made: the newest without one of its
//! optional fields, or without the newest variant of a union or symbol of an enum.

use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value as Json;

use super::*;
use crate::wire::schemas::{self, SOURCES};

/// The published versions of a topic by their files, oldest first.
fn published(topic: Topic) -> Vec<(u32, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/history").join(topic.short());
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut versions: Vec<(u32, String)> = files
        .map(|file| file.unwrap().path())
        .map(|path| {
            let version = path.file_stem().and_then(|stem| stem.to_str()).unwrap().parse().unwrap();
            (version, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    versions.sort();
    versions
}

#[test]
fn every_file_of_the_history_is_listed_in_its_order_and_can_be_read() {
    for (topic, current, listed) in SOURCES {
        let files = published(topic);
        let numbers: Vec<u32> = files.iter().map(|(version, _)| *version).collect();
        assert_eq!(numbers, (1..).take(files.len()).collect::<Vec<u32>>(), "{}", topic.short());
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, listed, "wire/schemas.rs must list schemas/history/{}", topic.short());
        assert_eq!(texts.last(), Some(&current), "publish {} to schemas/history first", topic.short());
        let known = schemas::of(topic).unwrap();
        for text in texts {
            let fingerprint = fingerprint(&Schema::parse_str(text).unwrap());
            assert!(fingerprint == known.current.fingerprint || known.older.contains_key(&fingerprint));
        }
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/history");
    for topic in std::fs::read_dir(folder).unwrap() {
        let name = topic.unwrap().file_name().into_string().unwrap();
        assert!(Topic::parse(&name).is_some(), "schemas/history/{name} belongs to no topic");
    }
}

fn fingerprint(schema: &Schema) -> [u8; 8] {
    schema.fingerprint::<apache_avro::rabin::Rabin>().bytes.try_into().unwrap()
}

/// A published schema is what records of that time were written with: to change it would make them unreadable.
#[test]
fn published_schemas_stay_as_they_are() {
    let mut text = String::new();
    for topic in Topic::ALL {
        for (version, schema) in published(topic) {
            let schema = Schema::parse_str(&schema).unwrap();
            text += &format!("{} {version} {}\n", topic.short(), hex::encode(fingerprint(&schema)));
        }
    }
    expect_test::expect![[r#"
        inbox 1 acd08cd9a187133d
        inbox 2 dae76cb10e56f92c
        inbox 3 406dea10cc9d7b85
        inbox 4 7b61324154d0a423
        state-transitions 1 ddb71047c22902c4
        state-transitions 2 29109bd3e8629ee5
        state-transitions 3 c93c963c72e98ecd
        effects 1 638de603f948ee7b
        effects 2 02e24f4e22c9faf3
        effects 3 0d471030a64b14e2
        artifacts 1 57a9d79a5c444edf
        artifacts 2 53f9a9c7b9651b8f
        payment-requests 1 62fc9712f5e1d71f
        payment-requests 2 9e8a7692fb409823
        payment-requests 3 5cfc7643731f0180
        ledger-transactions 1 0a48b947b4c3539f
        ledger-transactions 2 dc3ed584079aa4f4
        ledger-transactions 3 1fc322ffda9429b0
        registry 1 624a74b5c476c719
        dead-letters 1 95a67d22ecb55bd8
    "#]]
    .assert_eq(&text);
}

/// What is taken out of the newest schema to have an older one.
#[derive(Clone, Debug, PartialEq)]
enum Newest {
    /// An optional field of a record.
    Field { record: String, field: String },
    /// The last branch of the union of records in a field.
    Variant { record: String, field: String },
    /// The last symbol of an enum.
    Symbol { name: String },
}

fn name_of(schema: &Json) -> Option<&str> {
    schema.get("name")?.as_str()
}

/// The union of records that is the type of a field, or that of its items.
fn union_of(field: &mut Json) -> Option<&mut Vec<Json>> {
    let of = field.get_mut("type")?;
    let of = if of.get("items").is_some() { of.get_mut("items")? } else { of };
    let records = of.as_array()?.iter().filter(|branch| branch.get("fields").is_some()).count();
    if records > 1 { of.as_array_mut() } else { None }
}

/// Everything that could have been added last.
fn newest(schema: &Json, found: &mut Vec<Newest>) {
    match schema {
        Json::Object(object) => {
            let name = name_of(schema).unwrap_or_default().to_owned();
            if object.get("symbols").is_some() {
                found.push(Newest::Symbol { name: name.clone() });
            }
            for field in object.get("fields").and_then(Json::as_array).into_iter().flatten() {
                let (record, of) = (name.clone(), name_of(field).unwrap_or_default().to_owned());
                if field.get("default").is_some() {
                    found.push(Newest::Field { record: record.clone(), field: of.clone() });
                }
                if union_of(&mut field.clone()).is_some() {
                    found.push(Newest::Variant { record, field: of });
                }
            }
            object.values().for_each(|inner| newest(inner, found));
        }
        Json::Array(items) => items.iter().for_each(|item| newest(item, found)),
        _ => {}
    }
}

fn without(schema: &mut Json, gone: &Newest) {
    let name = name_of(schema).unwrap_or_default().to_owned();
    match (gone, schema.get_mut("fields").and_then(Json::as_array_mut)) {
        (Newest::Field { record, field }, Some(fields)) if *record == name => {
            fields.retain(|one| name_of(one) != Some(field));
        }
        (Newest::Variant { record, field }, Some(fields)) if *record == name => {
            let of = fields.iter_mut().find(|one| name_of(one) == Some(field));
            of.and_then(union_of).unwrap().pop();
        }
        _ => {}
    }
    match schema {
        Json::Object(object) => {
            if let (Newest::Symbol { name: gone }, Some(Json::Array(symbols))) =
                (gone, object.get_mut("symbols"))
                && *gone == name
            {
                symbols.pop();
            }
            object.values_mut().for_each(|inner| without(inner, gone));
        }
        Json::Array(items) => items.iter_mut().for_each(|item| without(item, gone)),
        _ => {}
    }
}

/// A datum without a field of a record, as an older program had it. `set` counts where it was not null.
fn stripped(
    value: Value,
    schema: &Json,
    names: &BTreeMap<String, Json>,
    gone: &Newest,
    set: &mut u32,
) -> Value {
    let schema = schema.as_str().and_then(|name| names.get(name)).unwrap_or(schema);
    match (value, schema) {
        (Value::Union(at, inner), Json::Array(branches)) => {
            Value::Union(at, Box::new(stripped(*inner, &branches[at as usize], names, gone, set)))
        }
        (Value::Array(items), schema) => {
            let items = items.into_iter().map(|item| stripped(item, &schema["items"], names, gone, set));
            Value::Array(items.collect())
        }
        (Value::Record(fields), schema) => {
            let of =
                |name: &str| schema["fields"].as_array().unwrap().iter().find(|f| name_of(f) == Some(name));
            let mut kept = Vec::new();
            for (name, value) in fields {
                let here = matches!(gone, Newest::Field { record, field }
                    if Some(record.as_str()) == name_of(schema) && *field == name);
                if here {
                    *set += u32::from(!matches!(&value, Value::Union(_, inner) if **inner == Value::Null));
                    continue;
                }
                let inner = &of(&name).unwrap()["type"];
                // `"type": {"type": "record", …}` and `"type": "string"` alike.
                let value = stripped(value, inner, names, gone, set);
                kept.push((name, value));
            }
            Value::Record(kept)
        }
        (other, _) => other,
    }
}

fn named(schema: &Json, names: &mut BTreeMap<String, Json>) {
    match schema {
        Json::Object(object) => {
            if object.get("type").is_some_and(|of| of == "record" || of == "enum") {
                let name = name_of(schema).unwrap();
                names.insert(name.to_owned(), schema.clone());
                names.insert(format!("p2.{name}"), schema.clone());
            }
            object.values().for_each(|inner| named(inner, names));
        }
        Json::Array(items) => items.iter().for_each(|item| named(item, names)),
        _ => {}
    }
}

fn datum(schema: &Schema, mut bytes: &[u8]) -> Value {
    GenericDatumReader::builder(schema).build().unwrap().read_value(&mut bytes).unwrap()
}

fn payload(topic: Topic, writer: &Schema, mut bytes: &[u8]) -> Result<Payload, String> {
    let bytes = &mut bytes;
    Ok(match topic {
        Topic::Inbox => Payload::Inbox(read(writer, bytes)?),
        Topic::StateTransitions => Payload::Transition(read(writer, bytes)?),
        Topic::Effects => Payload::Effect(read(writer, bytes)?),
        Topic::Artifacts => Payload::Artifact(read(writer, bytes)?),
        Topic::PaymentRequests => Payload::PaymentRequest(read(writer, bytes)?),
        Topic::LedgerTransactions => Payload::LedgerTransaction(read(writer, bytes)?),
        Topic::Registry => Payload::Registry(read(writer, bytes)?),
        Topic::DeadLetters => Payload::DeadLetter(read(writer, bytes)?),
    })
}

/// How many records of an older version were read, out of every sample that it could have written.
fn read_back(topic: Topic, gone: &Newest) -> usize {
    let current = &schemas::of(topic).unwrap().current.schema;
    let text = SOURCES.iter().find(|(of, ..)| *of == topic).unwrap().1;
    let json: Json = serde_json::from_str(text).unwrap();
    let mut names = BTreeMap::new();
    named(&json, &mut names);
    let mut older = json.clone();
    without(&mut older, gone);
    assert_ne!(older, json, "{gone:?} is nowhere");
    // What went may have been where a type is spelt out that others name.
    let Ok(older) = Schema::parse(&older) else { return 0 };
    let older_writer = GenericDatumWriter::builder(&older).build().unwrap();
    let mut count = 0;
    for (name, message) in samples().into_iter().filter(|(_, message)| message.payload.topic() == topic) {
        let bytes = encode_payload(&message.payload).unwrap();
        let strip = |bytes: &[u8], set: &mut u32| stripped(datum(current, bytes), &json, &names, gone, set);
        let value = strip(&bytes[10..], &mut 0);
        // A sample that needs what the older version did not have.
        let Ok(old) = older_writer.write_value_to_vec(value.clone()) else { continue };
        let found =
            payload(topic, &older, &old).unwrap_or_else(|error| panic!("{name} without {gone:?}: {error}"));
        if let Newest::Field { .. } = gone {
            let mut set = 0;
            let again = strip(&encode_payload(&found).unwrap()[10..], &mut set);
            assert_eq!((again, set), (value, 0), "{name} without {gone:?}");
        } else {
            assert_eq!(found, message.payload, "{name} without {gone:?}");
        }
        count += 1;
    }
    count
}

#[test]
fn records_from_before_a_field_or_variant_was_added_are_read_into_the_types_of_today() {
    let (mut fields, mut variants, mut symbols) = (0, 0, 0);
    for topic in Topic::ALL {
        let text = SOURCES.iter().find(|(of, ..)| *of == topic).unwrap().1;
        let mut all = Vec::new();
        newest(&serde_json::from_str(text).unwrap(), &mut all);
        for gone in &all {
            let read = usize::from(read_back(topic, gone) > 0);
            match gone {
                Newest::Field { .. } => fields += read,
                Newest::Variant { .. } => variants += read,
                Newest::Symbol { .. } => symbols += read,
            }
        }
    }
    assert!(
        fields >= 35 && variants >= 5 && symbols >= 8,
        "{fields} fields, {variants} unions, {symbols} enums"
    );
}

#[test]
fn a_record_of_an_older_version_is_found_by_its_fingerprint_and_one_of_a_later_version_is_refused() {
    let topic = Topic::Inbox;
    let json: Json = serde_json::from_str(SOURCES[0].1).unwrap();
    let gone = Newest::Field { record: "UserText".into(), field: "branch".into() };
    let mut older = json;
    without(&mut older, &gone);
    let older = Schema::parse(&older).unwrap();
    assert_ne!(fingerprint(&older), schemas::of(topic).unwrap().current.fingerprint);
    let (_, message) = samples().remove(0);
    let mut record = encode(&message, "/p2/test", 16).unwrap();
    record.value[2..10].copy_from_slice(&fingerprint(&older));
    assert_eq!(decode(&stored(record)).unwrap_err().code(), "unknown_schema", "nobody has published it");
}
