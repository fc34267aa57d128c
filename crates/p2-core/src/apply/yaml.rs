//! YAML text to JSON values, and keys back to lines.

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use serde_yaml_ng::Value as Yaml;

/// The documents of a text as JSON; an error is (line, message).
pub(super) fn documents(text: &str) -> Result<Vec<Value>, (Option<usize>, String)> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let mut value = Yaml::deserialize(document).map_err(syntax)?;
        value.apply_merge().map_err(syntax)?;
        documents.push(json(value).map_err(|message| (None, message))?);
    }
    Ok(documents)
}

fn syntax(error: serde_yaml_ng::Error) -> (Option<usize>, String) {
    let line = error.location().map(|location| location.line());
    (line, format!("is not valid YAML: {error}"))
}

fn json(value: Yaml) -> Result<Value, String> {
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => Value::Number(json_number(&number)?),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, item) in mapping {
                let key = json_key(key)?;
                if object.insert(key.clone(), json(item)?).is_some() {
                    return Err(format!("the key '{key}' appears twice; keep one of them"));
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(format!("the YAML tag '{}' has no meaning here; remove it", tagged.tag));
        }
    })
}

fn json_number(number: &serde_yaml_ng::Number) -> Result<Number, String> {
    let whole = number.as_i64().map(Number::from).or_else(|| number.as_u64().map(Number::from));
    whole
        .or_else(|| number.as_f64().and_then(Number::from_f64))
        .ok_or_else(|| format!("the number {number} cannot be used; write a finite one"))
}

fn json_key(key: Yaml) -> Result<String, String> {
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Bool(flag) => Ok(flag.to_string()),
        _ => Err("a key of a mapping must be text".to_owned()),
    }
}

/// The line of `key`, counted from 1: its only one in the text, or else the first one after the line of the
/// definition's id and before that of the next.
pub(super) fn line_of(text: &str, key: &str, id: Option<&str>) -> Option<usize> {
    let lines: Vec<(usize, &str, &str)> = text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let (name, value) = line.trim_start_matches([' ', '-', '{']).split_once(':')?;
            Some((index + 1, unquoted(name), unquoted(value)))
        })
        .collect();
    let mut with_key = lines.iter().filter(|(_, name, _)| *name == key).map(|(line, ..)| *line);
    let only = with_key.next()?;
    if with_key.next().is_none() {
        return Some(only);
    }
    let mut after = lines.iter().skip_while(|(_, name, value)| *name != "id" || Some(*value) != id);
    let own = after.next()?;
    if key == "id" {
        return Some(own.0);
    }
    after.take_while(|(_, name, _)| *name != "id").find(|(_, name, _)| *name == key).map(|(line, ..)| *line)
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}
