use p2_stream::ports::ToolReply;
use serde_json::{Value, json};

use super::BuiltinToolbox;

fn check(tool: &str, arguments: Value, expected: Result<Value, &str>) {
    let expected = match expected {
        Ok(value) => ToolReply::Success(value),
        Err(message) => ToolReply::Failure(message.to_owned()),
    };
    assert_eq!(BuiltinToolbox::default().run(tool, &arguments), expected, "{tool} {arguments}");
}

#[test]
fn weather_is_converted_to_the_unit_that_was_asked_for() {
    let weather = |location, temperature: f64, unit| {
        Ok(json!({ "location": location, "temperature": temperature, "unit": unit }))
    };
    let table = [
        (json!({"location": "San Francisco"}), weather("San Francisco", 72.0, "fahrenheit")),
        (json!({"location": "San Francisco", "unit": "celsius"}), weather("San Francisco", 22.2, "celsius")),
        (json!({"location": "Tokyo", "unit": "fahrenheit"}), weather("Tokyo", 50.0, "fahrenheit")),
        (json!({"location": "Tokyo", "unit": "celsius"}), weather("Tokyo", 10.0, "celsius")),
        (json!({"location": "Paris"}), weather("Paris", 71.6, "fahrenheit")),
        (json!({"location": " pARIS ", "unit": "Celsius"}), weather("Paris", 22.0, "celsius")),
        (json!({"location": "Paris", "unit": null}), weather("Paris", 71.6, "fahrenheit")),
    ];
    for (arguments, expected) in table {
        check("get_weather", arguments, expected);
    }
}

#[test]
fn weather_that_is_not_in_the_table_is_a_failure() {
    check("get_weather", json!({"location": "Oslo"}), Err("Weather data for 'Oslo' not found."));
}

#[test]
fn a_wrong_unit_is_a_failure_that_names_the_right_ones() {
    for (unit, shown) in [(json!("kelvin"), "\"kelvin\""), (json!(7), "7")] {
        let message = format!("Argument 'unit' must be \"fahrenheit\" or \"celsius\", given: {shown}.");
        check("get_weather", json!({"location": "Paris", "unit": unit}), Err(&message));
    }
}

#[test]
fn the_leader_of_each_known_league_is_found_in_any_case() {
    for (league, name, leader) in [
        ("Ligue 1", "Ligue 1", "Paris Saint-Germain"),
        ("premier league", "Premier League", "Manchester City"),
        ("LA LIGA", "La Liga", "Real Madrid"),
    ] {
        let expected = Ok(json!({"league": name, "leader": leader}));
        check("get_league_leader", json!({"league": league}), expected);
    }
    let message = "No leader known for league 'Bundesliga'; known leagues: Ligue 1, Premier League, La Liga.";
    check("get_league_leader", json!({"league": "Bundesliga"}), Err(message));
}

#[test]
fn missing_and_mistyped_arguments_are_failures() {
    check("get_weather", json!({}), Err("Argument 'location' is missing."));
    check("get_league_leader", json!({"league": 1}), Err("Argument 'league' must be a text, given: 1."));
}

#[test]
fn a_tool_that_is_not_built_in_is_a_failure_that_names_those_that_are() {
    let message = "There is no built-in tool 'fly'; there are: get_league_leader, get_weather.";
    check("fly", json!({}), Err(message));
}
