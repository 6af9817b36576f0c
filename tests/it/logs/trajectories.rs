//! One test per shape of trajectories, with rows as the tools document them.

use serde_json::{Value, json};
use socratiq::logs::{Format, Record};

use super::formats::{check, check_again};
use super::{log, native, read_all};

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn agent(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

#[test]
fn native_trajectories() {
    let row = json!({"id": "1", "env": "bandit", "seed": 7,
        "messages": [user("Q"), {"role": "assistant", "content": "A", "reward": 1.0}],
        "return": 1.0, "ending": "truncated", "metadata": {"group": "g"}});
    check(Format::Trajectory, &row, std::slice::from_ref(&row));
}

#[test]
fn chats_with_a_reward() {
    let line = |messages: Value, return_: f64, ending: &str, metadata: Value| {
        json!({"id": "7", "env": "", "seed": null, "messages": messages, "return": return_, "ending": ending,
               "metadata": metadata})
    };
    let said = json!([user("Q"), agent("A")]);
    check(
        Format::ChatReward,
        &json!({"id": 7, "messages": said, "reward": 0.5, "metadata": {"a": 1}, "group": "g"}),
        &[line(
            said.clone(),
            0.5,
            "terminated",
            json!({"a": 1, "group": "g"}),
        )],
    );
    // A reward for each message, and their sum.
    let rewarded =
        |text: &str, reward: f64| json!({"role": "assistant", "content": text, "reward": reward});
    let turns = json!([
        user("Q"),
        rewarded("A", 0.25),
        user("R"),
        rewarded("A2", 0.5)
    ]);
    check(
        Format::ChatReward,
        &json!({"id": "7", "messages": turns}),
        &[
            json!({"id": "7", "env": "", "seed": null, "messages": turns, "return": 0.75, "ending": "terminated"}),
        ],
    );
    // verifiers
    check(
        Format::ChatReward,
        &json!({"id": "7", "prompt": [user("Q")], "completion": [agent("A")], "reward": 1, "task": "t",
                "is_truncated": true}),
        &[line(said.clone(), 1.0, "truncated", json!({"task": "t"}))],
    );
    // ART, whose choices are what the OpenAI API answers.
    let choice = json!({"finish_reason": "stop", "index": 0, "message": agent("A")});
    check(
        Format::ChatReward,
        &json!({"id": "7", "messages_and_choices": [user("Q"), choice], "reward": -1.0, "metrics": {"m": 1}}),
        &[line(said, -1.0, "terminated", json!({"metrics": {"m": 1}}))],
    );
}

/// Whether the agent says it, the text, the reward.
type Said = (bool, String, Option<f64>);

/// What a trajectory says, its return, and whether it was cut off.
fn episode(format: Format, row: &Value) -> (Vec<Said>, f64, bool) {
    let mut log = log(&row.to_string(), "log.jsonl", None);
    let (records, bad) = read_all(&mut log);
    assert_eq!((bad, log.format()), (vec![], Some(format)));
    check_again(&native(&records));
    let Record::Trajectory(trajectory) = &records[0] else {
        panic!("{records:?}")
    };
    let said = trajectory.messages.iter().map(|turn| {
        let is_agent = turn.message.role == socratiq::envs::Role::Assistant;
        (is_agent, turn.message.text().into_owned(), turn.reward)
    });
    let is_cut_off = trajectory.ending == socratiq::envs::Ending::Truncated;
    (said.collect(), trajectory.return_, is_cut_off)
}

fn heard(text: &str) -> Said {
    (false, text.to_owned(), None)
}

fn acted(text: &str, reward: f64) -> Said {
    (true, text.to_owned(), Some(reward))
}

#[test]
fn lmrl_twenty_questions() {
    let mut row = json!({"lines": ["Is it big? (really)? No.", "Is it a boot? Yes."], "correct": true,
        "word": ["Boots", "Boot"]});
    let said = |last: f64| {
        vec![
            heard("Questions:"),
            acted("Is it big? (really)?", -1.0),
            heard("No."),
            acted("Is it a boot?", last),
            heard("Yes."),
        ]
    };
    assert_eq!(
        episode(Format::LmrlQuestions, &row),
        (said(0.0), -1.0, false)
    );
    row["correct"] = json!(false);
    assert_eq!(
        episode(Format::LmrlQuestions, &row),
        (said(-1.0), -2.0, true)
    );
    row["lines"] = json!(vec!["Is it big? No."; 20]);
    let (_, return_, is_cut_off) = episode(Format::LmrlQuestions, &row);
    assert_eq!((return_, is_cut_off), (-20.0, false));
    // ArCHer's file does not say what the questions were worth.
    let text = json!({"conversation": ["Is it in Europe? Yes."]}).to_string();
    let (records, _) = read_all(&mut log(&text, "log.jsonl", None));
    assert!(matches!(records[0], Record::Demonstration(_)));
}

#[test]
fn lmrl_car_dealer() {
    let line = |role: &str, text: &str| json!({"role": role, "text": text});
    let mut row = json!({
        "buyer_info": {"personality": "polite", "preferred_brands": "a Ford", "preferred_type": "SUV",
            "preferred_features": ["sunroof"], "budget": 10000},
        "lines": [line("Seller", "Hello."), line("Seller", "A Ford?"), line("Buyer", "Yes."),
            line("Seller", "9000."), line("Buyer", "Fine.")],
        "output": {"car_bought": true, "msrp": 8000, "buy_price": 9000}});
    let said = |reward: f64| {
        vec![
            heard("Beginning of Conversation"),
            (true, "Hello. A Ford?".to_owned(), None),
            heard("Yes."),
            acted("9000.", reward),
            heard("Fine."),
        ]
    };
    assert_eq!(
        episode(Format::LmrlCarDealer, &row),
        (said(1.0), 1.0, false)
    );
    row["output"] = json!({"car_bought": false, "msrp": 8000, "buy_price": null});
    assert_eq!(
        episode(Format::LmrlCarDealer, &row),
        (said(-0.25), -0.25, false)
    );
    row["output"] = Value::Null;
    assert_eq!(episode(Format::LmrlCarDealer, &row), (said(0.0), 0.0, true));
}

#[test]
fn lmrl_wordle() {
    let row = json!({"sequence": [["Wordle:\n", 0], ["c r a n e\n", 1], ["b b g b b\n", 0], ["p l a i d\n", 1],
        ["g g g g g\n", 0]], "reward": [-1.0, 0.0, 0.0, 0.0], "done": true});
    let said = vec![
        heard("Wordle:"),
        acted("c r a n e", -1.0),
        heard("b b g b b"),
        acted("p l a i d", 0.0),
        heard("g g g g g"),
    ];
    assert_eq!(episode(Format::LmrlWordle, &row), (said, -1.0, false));
}

#[test]
fn lmrl_maze_and_chess() {
    for state in ["state", "from_state"] {
        let row = json!([
            {state: "at the door\n", "action": "move up\n", "reward": -1.0, "done": false},
            {state: "at the goal\n", "action": "stay\n", "reward": 0.0, "done": true}]);
        let said = vec![
            heard("at the door"),
            acted("move up", -1.0),
            heard("at the goal"),
            acted("stay", 0.0),
        ];
        assert_eq!(episode(Format::LmrlSteps, &row), (said, -1.0, false));
    }
}

#[test]
fn lmrl_text_histories() {
    let said = vec![
        heard("a kitchen"),
        acted("go north", 1.0),
        heard("a garden"),
    ];
    let mut row = json!({"text_history": ["a kitchen\n", "go north\n", "a garden\n"], "rewards": [1.0],
        "dones": [false]});
    assert_eq!(episode(Format::LmrlText, &row), (said.clone(), 1.0, true));
    row["rewards"] = json!([0.0, 1.0, 0.0]);
    row["dones"] = json!([false, false, true]);
    assert_eq!(episode(Format::LmrlText, &row), (said, 1.0, false));
    let text = json!({"text_history": ["a", "b"]}).to_string();
    let (records, _) = read_all(&mut log(&text, "log.jsonl", None));
    assert!(
        matches!(records[0], Record::Demonstration(_)),
        "no reward is made up"
    );
}
