//! A model behind a server, played by a small one of our own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socratiq::Task;
use socratiq::agents::Sampling;
use socratiq::endpoint::{Endpoint, EndpointOptions};
use socratiq::envs::{Policy, RunSeed, Split};
use socratiq::rollouts::{Key, Played, Rollouts, World};

/// A request as the server saw it: its headers, in small letters, and its body.
type Request = (String, Value);

/// Answers every request with what `answer` makes of its number and body: a status, headers and a body.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(
        answer: impl Fn(usize, &Value) -> (u16, &'static str, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen: Arc<Mutex<Vec<Request>>> = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                        break;
                    }
                    let line = line.to_lowercase();
                    if let Some(given) = line.strip_prefix("content-length:") {
                        length = given.trim().parse().unwrap();
                    }
                    head += &line;
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                let number = seen.lock().unwrap().len();
                let (status, headers, text) = answer(number, &body);
                seen.lock().unwrap().push((head, body));
                // Whoever has gone away needs no answer.
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{text}",
                    text.len()
                );
            }
        });
        Self { address, requests }
    }

    fn play(&self, env: &str, key: Option<&str>, options: EndpointOptions) -> Played {
        let task: Task = env.parse().unwrap();
        let spec = format!("{}#tiny", self.address);
        let endpoint = Endpoint::with_key(&spec, key, options).unwrap();
        let policy = Arc::new(move |sample, _: &World| -> Box<dyn Policy> {
            Box::new(endpoint.policy(Sampling::default(), 50, sample))
        });
        let keys = Key::of_run(RunSeed(0), Split::Train, 1, 1);
        Rollouts::new(&task, env, policy)
            .collect(&keys)
            .unwrap()
            .remove(0)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn says(text: &str) -> String {
    json!({"choices": [{"message": {"role": "assistant", "content": text},
        "logprobs": {"content": [{"token": "b", "logprob": -0.5}, {"token": "lue", "logprob": -0.25}]}}],
        "usage": {"completion_tokens": 2}})
    .to_string()
}

#[test]
fn a_busy_server_is_asked_again_and_the_key_goes_with_it() {
    let server = Server::start(|number, _| match number {
        0 => (429, "retry-after: 0.2\r\n", "slow down".to_owned()),
        1 => (503, "retry-after: 0\r\n", String::new()),
        _ => (200, "", says("blue")),
    });
    let start = Instant::now();
    let played = server.play("bandit", Some("secret-key"), EndpointOptions::default());
    assert!(start.elapsed() >= Duration::from_millis(200));
    let trajectory = played.result.unwrap().trajectory;
    assert_eq!(trajectory.return_, 1.0);
    assert_eq!(
        trajectory.messages[1].message.extra["logprobs"],
        json!([-0.5, -0.25])
    );
    assert_eq!(trajectory.messages[1].message.extra["completion_tokens"], 2);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    let (head, body) = &requests[2];
    assert!(head.starts_with("post /v1/chat/completions "), "{head}");
    assert!(head.contains("authorization: bearer secret-key"), "{head}");
    assert_eq!(
        (&body["model"], &body["max_tokens"]),
        (&json!("tiny"), &json!(50))
    );
    assert_eq!(body["messages"][0]["role"], "user");
    assert_eq!(body["logprobs"], true);
    assert_eq!(body["seed"], requests[0].1["seed"]);
}

#[test]
fn a_server_that_refuses_costs_the_episode_and_does_not_show_the_key() {
    let server = Server::start(|_, _| (401, "", "bad key: secret-key".to_owned()));
    let played = server.play("bandit", Some("secret-key"), EndpointOptions::default());
    let failure = played.result.unwrap_err().to_string();
    assert!(
        failure.contains("401") && failure.contains("bad key: …"),
        "{failure}"
    );
    assert_eq!(server.requests().len(), 1);
    let endpoint = Endpoint::with_key(
        "https://example.org/v1#m",
        Some("secret-key"),
        EndpointOptions::default(),
    );
    assert!(!format!("{:?}", endpoint.unwrap()).contains("secret"));
}

#[test]
fn a_server_that_stays_busy_or_silent_is_given_up() {
    let impatient = EndpointOptions {
        timeout: Duration::from_millis(200),
        attempts: 2,
        ..EndpointOptions::default()
    };
    let busy = Server::start(|_, _| (500, "retry-after: 0\r\n", "oops".to_owned()));
    let failure = busy
        .play("bandit", None, impatient)
        .result
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("after 2 attempts") && failure.contains("oops"),
        "{failure}"
    );
    assert_eq!(busy.requests().len(), 2);
    let silent = Server::start(|_, _| {
        std::thread::sleep(Duration::from_millis(600));
        (200, "", says("blue"))
    });
    let failure = silent
        .play("bandit", None, impatient)
        .result
        .unwrap_err()
        .to_string();
    assert!(failure.contains("after 2 attempts"), "{failure}");
    let confused = Server::start(|_, _| (200, "", "<html>".to_owned()));
    let failure = confused
        .play("bandit", None, impatient)
        .result
        .unwrap_err()
        .to_string();
    assert!(failure.contains("no chat completion"), "{failure}");
}

#[test]
fn token_ids_become_the_record_where_the_server_gives_them() {
    // Every turn is read again from the beginning; the ids of the second prompt go on from the first turn.
    let server = Server::start(|number, body| {
        let messages = body["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 2 + 2 * number);
        // Fields of ours are not sent back.
        assert!(
            messages
                .iter()
                .all(|message| message.get("completion_tokens").is_none())
        );
        let prompt: Vec<u32> = match number {
            0 => vec![1, 2, 3],
            1 => vec![1, 2, 3, 70, 71, 4, 5],
            _ => vec![9, 8],
        };
        let answer = json!({"prompt_token_ids": prompt, "choices": [{"token_ids": [70, 71],
            "message": {"role": "assistant", "content": "Is it alive?"},
            "logprobs": {"content": [{"logprob": -1.0}, {"logprob": -2.0}]}}],
            "usage": {"completion_tokens": 2}});
        (200, "", answer.to_string())
    });
    let env = "elicitation:turn_limit=3";
    let played = server.play(env, None, EndpointOptions::default());
    let trajectory = played.result.unwrap().trajectory;
    let [first, second] = &trajectory.tokens[..] else {
        panic!("{:?}", trajectory.tokens);
    };
    assert_eq!(first.ids, [1, 2, 3, 70, 71, 4, 5, 70, 71]);
    assert_eq!(first.action, [0, 0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(first.logprob[3..6], [Some(-1.0), Some(-2.0), None]);
    // The third prompt is another beginning, as a template makes that drops what came before.
    assert_eq!(
        (&second.ids[..], &second.action[..]),
        (&[9, 8, 70, 71][..], &[0, 0, 1, 1][..])
    );
}

#[test]
fn requests_keep_to_the_limit() {
    let server = Server::start(|_, _| (200, "", says("Is it alive?")));
    let options = EndpointOptions {
        requests_per_minute: Some(600),
        ..EndpointOptions::default()
    };
    let start = Instant::now();
    let played = server.play("elicitation:turn_limit=5", None, options);
    assert!(played.result.is_ok());
    assert_eq!(server.requests().len(), 5);
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[test]
fn addresses_say_what_is_missing() {
    let error = |spec: &str, key: Option<&str>| {
        let endpoint = Endpoint::with_key(spec, key, EndpointOptions::default());
        endpoint.unwrap_err().to_string()
    };
    assert!(error("https://example.org/v1", None).contains("names no model"));
    assert!(error("http://example.org/v1#m", Some("k")).contains("without encryption"));
    assert!(error("https://#m", None).contains("is no address"));
}
