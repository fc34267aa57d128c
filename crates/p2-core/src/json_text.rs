//! JSON values that travel as text: an Avro `string` on the wire, a value in memory.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A JSON value whose wire form is its compact text with sorted keys, so that equal values are equal bytes.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JsonText(pub Value);

impl JsonText {
    /// The compact text, keys sorted.
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> JsonText {
        JsonText(value)
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonText, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(JsonText).map_err(serde::de::Error::custom)
    }
}
