//! The built-in script, played as the demonstrations do: tools answered by a fixed table.

use p2_core::json_text::JsonText;
use p2_core::model::{ChatMessage, ToolSpec};
use serde_json::{Value, json};

use super::*;

struct Chat {
    request: ModelRequest,
}

impl Chat {
    fn with(tools: &[&str]) -> Chat {
        let tools = tools.iter().map(|name| ToolSpec {
            name: (*name).into(),
            description: String::new(),
            parameters: JsonText(json!({"type": "object"})),
        });
        Chat {
            request: ModelRequest {
                model: "scripted/demo".into(),
                messages: vec![],
                tools: tools.collect(),
                temperature: None,
                top_p: None,
                max_tokens: None,
            },
        }
    }

    /// One reply to what is there, appended.
    fn turn(&mut self) -> ModelReply {
        let reply = answer(&Script::demo().unwrap(), &self.request).result.unwrap();
        self.request.messages.push(ChatMessage::Assistant {
            content: reply.text.clone(),
            tool_calls: reply.tool_calls.clone(),
        });
        reply
    }

    fn say(&mut self, text: &str) -> ModelReply {
        self.request.messages.push(ChatMessage::User { content: text.into() });
        self.turn()
    }

    fn results(&mut self, reply: &ModelReply, tool: impl Fn(&str, &Value) -> Value) -> ModelReply {
        for call in &reply.tool_calls {
            let arguments = serde_json::from_str(&call.arguments).unwrap();
            self.request.messages.push(ChatMessage::Tool {
                tool_call_id: call.id.clone(),
                name: call.name.clone(),
                content: tool(&call.name, &arguments).to_string(),
            });
        }
        self.turn()
    }

    /// Says it, answers calls until there are none, gives the last text.
    fn ask(&mut self, text: &str) -> String {
        let mut reply = self.say(text);
        for _ in 0..5 {
            if reply.tool_calls.is_empty() {
                break;
            }
            reply = self.results(&reply, tool);
        }
        reply.text.unwrap()
    }
}

const HELPER: &[&str] = &["get_weather", "check_balance", "transaction_history"];
const ALPHA: &[&str] = &["get_weather", "get_league_leader", "delegate", "ask_user", "check_balance"];

fn tool(name: &str, arguments: &Value) -> Value {
    match (name, arguments["location"].as_str(), arguments["league"].as_str()) {
        ("get_weather", Some("Paris"), _) => {
            json!({"location": "Paris", "temperature": 71.6, "unit": "fahrenheit"})
        }
        ("get_weather", Some("Tokyo"), _) => {
            json!({"location": "Tokyo", "temperature": 50.0, "unit": "fahrenheit"})
        }
        ("get_weather", Some(other), _) => {
            json!({"status": "error", "message": format!("Weather data for '{other}' not found.")})
        }
        ("get_league_leader", _, Some(league)) => {
            json!({"status": "success", "data": {"league": league, "leader": "X"}})
        }
        ("delegate", ..) => {
            let tools: &[&str] =
                if arguments["agent_id"] == "agent_helper" { HELPER } else { &["check_balance"] };
            let said = Chat::with(tools).ask(arguments["message"].as_str().unwrap());
            json!({"status": "success", "child": arguments["agent_id"], "answer": said})
        }
        ("ask_user", ..) => json!({"answer": "blue"}),
        _ => json!({"agent": "agent_x", "balance": 100, "formatted": "100.00"}),
    }
}

fn calls(reply: &ModelReply) -> Vec<String> {
    reply.tool_calls.iter().map(|call| format!("{} {}", call.name, call.arguments)).collect()
}

#[test]
fn weather_is_looked_up_and_told() {
    let mut chat = Chat::with(ALPHA);
    assert!(chat.ask("hey").starts_with("Hello"));
    let reply = chat.say("what is weather in paris?");
    assert_eq!(calls(&reply), [r#"get_weather {"location":"Paris","unit":"fahrenheit"}"#]);
    assert_eq!(chat.results(&reply, tool).text.unwrap(), "It is 71.6°F in Paris.");
    assert_eq!(chat.ask("and in Tokyo?"), "It is 50°F in Tokyo.");
    assert!(chat.ask("thanks").starts_with("You're welcome"));
    assert!(chat.ask("oki").starts_with("All right"));
    let failed = chat.ask("What's the weather like in New York today?");
    assert_eq!(failed, "get_weather did not work: Weather data for 'New York' not found.");
}

#[test]
fn other_agents_are_asked_in_one_reply() {
    let mut chat = Chat::with(ALPHA);
    let reply = chat.say("yeh ask other agents what the weather is in Tokyo and Paris");
    assert_eq!(
        calls(&reply),
        [
            r#"delegate {"agent_id":"agent_helper","message":"What is the weather in Tokyo?"}"#,
            r#"delegate {"agent_id":"child","message":"What is the weather in Paris?"}"#,
        ]
    );
    let sum = chat.results(&reply, tool).text.unwrap();
    assert_eq!(
        sum,
        "agent_helper says: It is 50°F in Tokyo.\nchild says: I have no weather tool. From memory: Paris is about 71.6°F."
    );
    let one = chat.say("yeh ask another agent what it is in Tokyo");
    assert_eq!(calls(&one).len(), 1);
    assert_eq!(chat.results(&one, tool).text.unwrap(), "agent_helper says: It is 50°F in Tokyo.");
}

#[test]
fn the_same_agent_is_asked_twice_and_the_asker_goes_on_after_the_answers() {
    let mut chat = Chat::with(ALPHA);
    let first = chat.say(
        "Ask agent_helper for the weather in Tokyo and in Paris, and child who leads Ligue 1, \
         then look up La Liga and the weather in Paris yourself and sum up",
    );
    assert_eq!(
        calls(&first),
        [
            r#"delegate {"agent_id":"agent_helper","message":"What is the weather in Tokyo?"}"#,
            r#"delegate {"agent_id":"agent_helper","message":"What is the weather in Paris?"}"#,
            r#"delegate {"agent_id":"child","message":"Who leads Ligue 1?"}"#,
        ]
    );
    let second = chat.results(&first, tool);
    assert_eq!(
        calls(&second),
        [
            r#"get_weather {"location":"Paris","unit":"fahrenheit"}"#,
            r#"get_league_leader {"league":"La Liga"}"#
        ]
    );
    assert!(second.text.is_some());
    let sum = chat.results(&second, tool).text.unwrap();
    assert_eq!(
        sum.lines().collect::<Vec<_>>(),
        [
            "agent_helper says: It is 50°F in Tokyo.",
            "agent_helper says: It is 71.6°F in Paris.",
            "child says: Paris Saint-Germain leads Ligue 1.",
            "It is 71.6°F in Paris.",
            "X leads La Liga.",
        ]
    );
}

#[test]
fn any_agent_can_be_asked_anything_and_people_too() {
    let mut chat = Chat::with(ALPHA);
    let reply = chat.say("ask treasurer about the balance");
    assert_eq!(calls(&reply), [r#"delegate {"agent_id":"treasurer","message":"the balance"}"#]);
    let asked = chat.say("ask me for my favourite colour");
    assert_eq!(calls(&asked), [r#"ask_user {"question":"You wanted to be asked: my favourite colour"}"#]);
    assert_eq!(chat.results(&asked, tool).text.unwrap(), "Thank you. You answered: blue");
    assert_eq!(chat.ask("what is my balance?"), "agent_x has 100.00.");
}

#[test]
fn leagues_are_answered_with_the_tool_and_without() {
    let mut with = Chat::with(ALPHA);
    let reply = with.say("who leads the premier league and la liga?");
    assert_eq!(
        calls(&reply),
        [r#"get_league_leader {"league":"Premier League"}"#, r#"get_league_leader {"league":"La Liga"}"#]
    );
    let mut without = Chat::with(&[]);
    assert_eq!(without.ask("Who leads La Liga?"), "Real Madrid leads La Liga.");
    assert_eq!(without.ask("and the premier league?"), "Manchester City leads the Premier League.");
}

#[test]
fn a_long_talk_about_pi_and_e_is_recalled_by_what_is_in_it() {
    let mut chat = Chat::with(&[]);
    assert!(chat.ask("what is pi?").contains("3.14159"));
    assert!(chat.ask("how many digits does it have?").contains("3.141592653589793"));
    let branch = chat.request.messages.clone();
    assert!(chat.ask("what is Euler's number?").contains("2.71828"));
    assert!(chat.ask("how many digits does it have?").contains("2.718281828459045"));
    assert!(chat.ask("who discovered it?").contains("Bernoulli"));
    assert!(chat.ask("where is it used?").contains("growth"));
    assert!(chat.ask("how are pi and e related?").contains("e^(iπ) + 1 = 0"));
    assert_eq!(
        chat.ask("what were we talking about here?"),
        "We were talking about the number pi and Euler's number e."
    );
    chat.request.messages = branch;
    assert_eq!(chat.ask("what were we talking about here?"), "We were talking about the number pi.");
}

#[test]
fn money_moves_only_where_the_tool_is_on_offer() {
    let mut chat = Chat::with(&["transfer_funds"]);
    let reply = chat.say("Transfer 25 to agent_beta for helping with analysis");
    assert_eq!(
        calls(&reply),
        [r#"transfer_funds {"amount":25.0,"reason":"helping with analysis","to_agent":"agent_beta"}"#]
    );
    let mut without = Chat::with(&[]);
    assert!(without.ask("Transfer 25 to agent_beta").contains("no rule"));
}

#[test]
fn work_and_its_pay_may_be_asked_for_in_one_message() {
    for (to, expected) in [("him", "agent_helper"), ("agent_lemy", "agent_lemy")] {
        let mut chat = Chat::with(&["delegate", "transfer_funds"]);
        let reply = chat.say(&format!("Ask agent_helper for the weather in Paris, then pay {to} 10 tokens"));
        let asked = r#"delegate {"agent_id":"agent_helper","message":"What is the weather in Paris?"}"#;
        assert_eq!(calls(&reply), [asked]);
        let answer = json!({"status": "success", "child": "agent_helper", "answer": "71.6"});
        let reply = chat.results(&reply, |_, _| answer.clone());
        let paid = format!(
            r#"transfer_funds {{"amount":10.0,"reason":"What is the weather in Paris?","to_agent":"{expected}"}}"#
        );
        assert_eq!(calls(&reply), [paid]);
        let done = json!({"transferred": "10.00", "to": expected, "transaction_id": "f00"});
        let reply = chat.results(&reply, |_, _| done.clone());
        let text = reply.text.unwrap();
        assert!(text.contains("71.6") && text.contains("Done: 10.00"), "{text}");
    }
    let mut chat = Chat::with(&["delegate", "transfer_funds"]);
    let reply = chat.say("Ask agent_helper for the weather in Paris, then pay him 10 tokens");
    let reply = chat.results(&reply, |_, _| json!({"status": "timeout", "message": "no answer"}));
    assert!(reply.tool_calls.is_empty(), "no work, no pay: {reply:?}");
}

#[test]
fn anything_else_is_answered_sensibly() {
    let mut chat = Chat::with(HELPER);
    for text in ["", "   ", "{{ user }}", "{% for %}", "🦀", "\u{0}", "what is (", "help"] {
        assert!(!chat.ask(text).is_empty(), "{text:?}");
    }
    assert!(chat.ask("help").contains("get_weather"));
    assert!(chat.ask("sing {{ model }}").contains("“sing {{ model }}”"));
}
