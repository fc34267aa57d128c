//! A payment request as somebody wrote it: a key that is not known is an error. What is spelled wrong would otherwise
//! be left out, and a payment without its deadline, limit or decimals is another payment.
//!
//! The record types themselves let unknown keys pass, since records of later versions are read with them.

use p2_core::record::PaymentRequest;
use serde_json::Value;

use crate::engine::{EngineError, EngineResult};

/// How alike two keys are where one may have been meant for the other, of 1.
const ALIKE: f64 = 0.8;

/// Reads a request.
pub(crate) fn payment_request(bytes: &[u8]) -> EngineResult<PaymentRequest> {
    let invalid = |error: serde_json::Error| EngineError::Invalid(format!("the payment request: {error}"));
    let request: PaymentRequest = serde_json::from_slice(bytes).map_err(invalid)?;
    let given: Value = serde_json::from_slice(bytes).map_err(invalid)?;
    // With every key that there is, those that were not given as null.
    let known = serde_json::to_value(&request).map_err(invalid)?;
    match unknown(&given, &known, "") {
        None => Ok(request),
        Some(message) => Err(EngineError::Invalid(message)),
    }
}

/// Of the first key of `given` that `known` does not have at that place, a sentence.
fn unknown(given: &Value, known: &Value, at: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let Some(place) = known.get(key) else {
                let keys: Vec<&str> = known.keys().map(String::as_str).collect();
                return Some(sentence(key, &keys, at));
            };
            let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            unknown(value, place, &at)
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(nth, (given, known))| unknown(given, known, &format!("{at}[{nth}]"))),
        _ => None,
    }
}

fn sentence(key: &str, known: &[&str], at: &str) -> String {
    let key: String = key.chars().take(40).flat_map(char::escape_debug).collect();
    let place = if at.is_empty() { "a payment request".to_owned() } else { format!("'{at}'") };
    let likeness = |known: &&str| strsim::jaro_winkler(&key, known);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.filter(|nearest| likeness(nearest) >= ALIKE);
    let meant = meant.map_or_else(|| ".".to_owned(), |nearest| format!("; did you mean '{nearest}'?"));
    format!("unknown key '{key}' in {place}, nothing was asked{meant} Known are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(change: impl Fn(&mut Value)) -> Result<PaymentRequest, String> {
        let mut request = json!({
            "id": "0123456789abcdef0123456789abcdef", "book": "main", "by": "shop",
            "cause": {"kind": "Human", "reason": "order 17"},
            "body": {"Transfer": {"legs": [{"from": "alpha", "to": "beta", "amount": 2500}], "scale": 2}},
        });
        change(&mut request);
        payment_request(request.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_that_is_not_known_is_an_error_at_every_level() {
        assert!(read(|_| {}).is_ok());
        assert!(read(|request| request["not_after_ms"] = Value::Null).is_ok());
        let late = read(|request| request["not_after"] = json!(1)).unwrap_err();
        assert!(
            late.contains("'not_after' in a payment request") && late.contains("'not_after_ms'?"),
            "{late}"
        );
        let leg = read(|request| request["body"]["Transfer"]["legs"][0]["scale"] = json!(0)).unwrap_err();
        assert!(leg.contains("'scale' in 'body.Transfer.legs[0]', nothing was asked. Known are"), "{leg}");
        let scal = read(|request| request["body"]["Transfer"]["scal"] = json!(0)).unwrap_err();
        assert!(scal.contains("'scal' in 'body.Transfer'") && scal.contains("'scale'?"), "{scal}");
        let why = read(|request| request["cause"]["because"] = json!("")).unwrap_err();
        assert!(why.contains("in 'cause'"), "{why}");
        for (body, key) in [
            (json!({"SetLimits": {"account": "a", "limits": {"credit": 0, "daymax": 5}}}), "'day_max'?"),
            (
                json!({"SetPolicy": {"policy": {"version": 2, "treasury": "t", "tiers": [], "approval_abov": 1}}}),
                "'approval_above'?",
            ),
        ] {
            let error = read(|request| request["body"] = body.clone()).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_key_twice_is_an_error() {
        let twice = br#"{"id": "0123456789abcdef0123456789abcdef", "book": "main", "book": "side"}"#;
        assert!(payment_request(twice).unwrap_err().to_string().contains("duplicate field"));
    }
}
