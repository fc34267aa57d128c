//! `get_weather`: a fixed table, for demonstrations and tests.

use p2_stream::ports::ToolReply;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Fahrenheit,
    Celsius,
}

/// Place, temperature, and the unit that it is stored in.
const WEATHER: [(&str, f64, Unit); 3] = [
    ("San Francisco", 72.0, Unit::Fahrenheit),
    ("Tokyo", 10.0, Unit::Celsius),
    ("Paris", 22.0, Unit::Celsius),
];

/// `{location, unit = "fahrenheit"}` → `{location, temperature, unit}`, with one decimal.
pub(super) fn get_weather(arguments: &Value) -> ToolReply {
    let location = match super::text(arguments, "location") {
        Ok(location) => location.trim(),
        Err(failure) => return failure,
    };
    let unit = match arguments.get("unit") {
        None | Some(Value::Null) => Unit::Fahrenheit,
        Some(given) => match given.as_str().and_then(unit) {
            Some(unit) => unit,
            None => {
                return ToolReply::Failure(format!(
                    "Argument 'unit' must be \"fahrenheit\" or \"celsius\", given: {given}."
                ));
            }
        },
    };
    let found = WEATHER.iter().find(|(place, _, _)| place.eq_ignore_ascii_case(location));
    let Some((place, stored, stored_in)) = found else {
        return ToolReply::Failure(format!("Weather data for '{location}' not found."));
    };
    let degrees = match (*stored_in, unit) {
        (Unit::Celsius, Unit::Fahrenheit) => stored * 9.0 / 5.0 + 32.0,
        (Unit::Fahrenheit, Unit::Celsius) => (stored - 32.0) * 5.0 / 9.0,
        _ => *stored,
    };
    let name = match unit {
        Unit::Fahrenheit => "fahrenheit",
        Unit::Celsius => "celsius",
    };
    let temperature = (degrees * 10.0).round() / 10.0;
    ToolReply::Success(json!({ "location": place, "temperature": temperature, "unit": name }))
}

fn unit(text: &str) -> Option<Unit> {
    match text.trim().to_ascii_lowercase().as_str() {
        "fahrenheit" => Some(Unit::Fahrenheit),
        "celsius" => Some(Unit::Celsius),
        _ => None,
    }
}
