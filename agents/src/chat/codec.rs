//! `ChatCodec`: dialogues to labelled tokens and back, by a model's template and tokenizer.
//!
//! The template renders dialogues of different lengths, and what a longer one has beyond a shorter one is
//! what was said in between. Nothing is guessed from words such as "assistant".

use std::path::Path;

use serde_json::{Map, Value};
use socratiq_envs::{Content, Message, Role, Tool};

use super::gguf;
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::tool_calls;
use crate::error::{AgentError, Result};
use crate::model::{GgufFile, read_json, write};
use crate::tokens::{Codec, Prompt, Tokens};

/// The template of `ChatML`, for models from scratch: every turn between `<|im_start|>` and `<|im_end|>`.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                          message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt \
                          %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// What stands for the template of a model that has none: its tokenizer reads plain text, and a dialogue is
/// refused.
const NO_TEMPLATE: &str = "{{ raise_exception('this model has no chat template, so it cannot chat: write one to \
                           `chat_template.jinja` beside it') }}";

/// A model's chat template and tokenizer.
///
/// A user who types a control token, such as `<|im_end|>`, gets its letters and not the token.
pub struct ChatCodec {
    template: Template,
    tokenizer: Tokenizer,
    /// The tokens that end an agent's turn; templates end it with the first.
    ends: Vec<u32>,
}

impl ChatCodec {
    /// A codec of a template's source and a tokenizer. `variables` are what the template may ask for, such
    /// as `eos_token` and `enable_thinking`; `ends` are tokens known to end a turn, by their text.
    ///
    /// # Errors
    /// When the template is not valid, or no token ends an agent's turn.
    pub fn new(
        template: &str,
        tokenizer: Tokenizer,
        variables: Map<String, Value>,
        ends: &[&str],
    ) -> Result<Self> {
        let mut codec = Self {
            template: Template::new(template, variables)?,
            tokenizer,
            ends: Vec::new(),
        };
        let mut found: Vec<u32> = codec.end_in_template().into_iter().collect();
        for end in ends {
            found.extend(codec.tokenizer.id(end).filter(|id| !found.contains(id)));
        }
        if found.is_empty() {
            return Err(AgentError::Encoding(
                "no token ends the agent's turn: neither the chat template nor `eos_token` has one"
                    .to_owned(),
            ));
        }
        codec.ends = found;
        Ok(codec)
    }

    /// `ChatML` over a tokenizer that has its two tokens: for models from scratch.
    ///
    /// # Errors
    /// When the tokenizer lacks a token.
    pub fn chatml(tokenizer: Tokenizer) -> Result<Self> {
        let variables = [("eos_token".to_owned(), "<|im_end|>".into())];
        Self::new(
            CHATML,
            tokenizer,
            variables.into_iter().collect(),
            &["<|im_end|>"],
        )
    }

    /// Opens the tokenizer and template of a Hugging Face folder or a `.gguf` file. `variables` add to those
    /// that the files set.
    ///
    /// # Errors
    /// What is missing, damaged or not supported, with the file's name.
    pub fn open(path: &Path, variables: &Map<String, Value>) -> Result<Self> {
        let parts = if path.is_file() {
            Parts::of_gguf(path)?
        } else {
            Parts::of_folder(path)?
        };
        let mut all = parts.variables;
        all.extend(variables.clone());
        let ends: Vec<&str> = parts.ends.iter().map(String::as_str).collect();
        Self::new(&parts.template, parts.tokenizer, all, &ends)
    }

    /// The same codec with more variables for its template.
    ///
    /// # Errors
    /// When the template cannot be compiled.
    pub fn with(&self, variables: &Map<String, Value>) -> Result<Self> {
        Ok(Self {
            template: self.template.with(variables)?,
            tokenizer: self.tokenizer.clone(),
            ends: self.ends.clone(),
        })
    }

    /// Text that no template is applied to: `prompt` is the environment's and `completion`, which ends with
    /// the end-of-turn token, the agent's. Control tokens are read as such, since such text was often made
    /// by a template. A token across the border is the agent's.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_text(&self, prompt: &str, completion: &str) -> Result<Tokens> {
        let before = self.tokenizer.encode_whole(prompt)?;
        let all = self
            .tokenizer
            .encode_whole(&format!("{prompt}{completion}"))?;
        let common = before.iter().zip(&all).take_while(|(a, b)| a == b).count();
        let mut tokens = Tokens::default();
        tokens.push_environment(&all[..common]);
        all[common..].iter().for_each(|id| tokens.push_action(*id));
        if !all.last().is_some_and(|id| self.is_end_of_turn(*id)) {
            tokens.push_action(self.end_of_turn());
        }
        Ok(tokens)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` into `folder`, as
    /// `transformers` reads them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
        write(
            &folder.join("tokenizer.json"),
            self.tokenizer.to_json()?.as_bytes(),
        )?;
        let mut config = self.variables().clone();
        config.retain(|name, value| name.ends_with("_token") && value.is_string());
        config.insert(
            "tokenizer_class".to_owned(),
            "PreTrainedTokenizerFast".into(),
        );
        if self.template() != NO_TEMPLATE {
            config.insert("chat_template".to_owned(), self.template().into());
        }
        write(
            &folder.join("tokenizer_config.json"),
            pretty(&Value::Object(config)).as_bytes(),
        )?;
        let generation = serde_json::json!({"eos_token_id": self.ends});
        write(
            &folder.join("generation_config.json"),
            pretty(&generation).as_bytes(),
        )
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template's source.
    pub fn template(&self) -> &str {
        self.template.source()
    }

    /// What the template may ask for.
    pub fn variables(&self) -> &Map<String, Value> {
        self.template.variables()
    }

    /// The dialogue as text, with the prompt of the agent's turn at its end if `prompt` is set: for people,
    /// since what somebody typed cannot be told from what the template wrote.
    ///
    /// # Errors
    /// When the template refuses the dialogue.
    pub fn text(&self, messages: &[Message], tools: &[Tool], prompt: bool) -> Result<String> {
        self.template
            .render(messages, tools, prompt, &|_, text| text.to_owned())
    }

    /// The last control token that the template puts after an agent's words.
    fn end_in_template(&self) -> Option<u32> {
        let user = Message::user("Hello.");
        let agent = Message::assistant("Hello.");
        let render = |messages: &[Message], prompt| self.render(messages, &[], prompt);
        let before = render(std::slice::from_ref(&user), true).ok()?;
        let after = render(&[user, agent], false).ok()?;
        let turn = after.text.strip_prefix(&before.text)?;
        let ids = self.tokenizer.encode(turn).ok()?;
        let special = |id: &u32| {
            self.tokenizer
                .added()
                .iter()
                .any(|t| t.id == *id && t.special)
        };
        ids.into_iter().rev().find(special)
    }

    /// The dialogue as text, in which control tokens that somebody typed are broken in two.
    fn render(&self, messages: &[Message], tools: &[Tool], prompt: bool) -> Result<Rendered> {
        let seam = seam(messages);
        let guard = |role: Role, text: &str| {
            // An agent may write markup that is a token; only what is special it may not.
            let forbidden = self.tokenizer.added().iter().filter(|token| match role {
                Role::Assistant => token.special,
                _ => token.is_control(),
            });
            forbidden.fold(text.to_owned(), |text, token| {
                break_up(&text, &token.text, seam)
            })
        };
        Ok(Rendered {
            text: self.template.render(messages, tools, prompt, &guard)?,
            seam,
        })
    }

    /// The text up to where the agent's last turn in it ended.
    fn render_to_end(&self, messages: &[Message], tools: &[Tool]) -> Result<Rendered> {
        let mut rendered = self.render(messages, tools, false)?;
        if messages
            .last()
            .is_some_and(|message| message.role == Role::Assistant)
            && let Some(end) = self.turn_end(&rendered.text)
        {
            rendered.text.truncate(end);
        }
        Ok(rendered)
    }

    /// Where the last token in `text` that ends a turn ends.
    fn turn_end(&self, text: &str) -> Option<usize> {
        let ends = self
            .tokenizer
            .added()
            .iter()
            .filter(|token| self.ends.contains(&token.id));
        ends.filter_map(|token| {
            text.rfind(&token.text)
                .map(|start| start + token.text.len())
        })
        .max()
    }

    /// The ids of `text`, as they come after `before`.
    fn encode_after(&self, before: &str, text: &str, seam: char) -> Result<Vec<u32>> {
        // Control tokens cut text for every tokenizer, so what lies before the last one does not matter.
        let added = self.tokenizer.added().iter();
        let start = added
            .filter_map(|token| before.rfind(&token.text))
            .max()
            .unwrap_or(0);
        let context = &before[start..];
        let context_ids = self.encode(context, seam)?;
        let all = self.encode(&format!("{context}{text}"), seam)?;
        match all.strip_prefix(context_ids.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            // A token lies across the border: whoever speaks next has not seen it, and begins anew.
            None => self.encode(text, seam),
        }
    }

    fn encode(&self, text: &str, seam: char) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for piece in text.split(seam) {
            ids.extend(self.tokenizer.encode(piece)?);
        }
        Ok(ids)
    }
}

struct Rendered {
    text: String,
    /// Where it occurs, a control token is broken in two.
    seam: char,
}

/// A character for private use that the dialogue does not have.
fn seam(messages: &[Message]) -> char {
    let used = |c: char| {
        messages.iter().any(|message| {
            let calls = message.tool_calls.iter().any(|call| {
                serde_json::to_string(&call.function).is_ok_and(|text| text.contains(c))
            });
            calls || message.text().contains(c)
        })
    };
    ('\u{E000}'..='\u{F8FF}')
        .find(|c| !used(*c))
        .unwrap_or('\u{E000}')
}

/// `text` with `seam` after the first character of every occurrence of `token`.
fn break_up(text: &str, token: &str, seam: char) -> String {
    let mut chars = token.chars();
    match chars.next() {
        Some(first) if !chars.as_str().is_empty() && text.contains(token) => {
            text.replace(token, &format!("{first}{seam}{}", chars.as_str()))
        }
        _ => text.to_owned(),
    }
}

impl Codec for ChatCodec {
    fn encode_observation(
        &self,
        history: &[Message],
        observation: &[Message],
        tools: &[Tool],
        agent_next: bool,
    ) -> Result<Prompt> {
        let dialogue = [history, observation].concat();
        let after = self.render(&dialogue, tools, agent_next)?;
        if history.is_empty() {
            return Ok(Prompt::Append(self.encode(&after.text, after.seam)?));
        }
        // Rendered with the same seam, so that the texts can be compared.
        let before = self.render_to_end(history, tools)?;
        let before_text = before
            .text
            .replace(before.seam, after.seam.encode_utf8(&mut [0; 4]));
        match after.text.strip_prefix(&before_text) {
            Some(said) => Ok(Prompt::Append(self.encode_after(
                &before_text,
                said,
                after.seam,
            )?)),
            None => Ok(Prompt::Restart(self.encode(&after.text, after.seam)?)),
        }
    }

    fn encode_action(
        &self,
        history: &[Message],
        action: &Message,
        tools: &[Tool],
    ) -> Result<Vec<u32>> {
        let dialogue = [history, std::slice::from_ref(action)].concat();
        let after = self.render(&dialogue, tools, false)?;
        let before = self.render(history, tools, true)?;
        let before_text = before
            .text
            .replace(before.seam, after.seam.encode_utf8(&mut [0; 4]));
        let turn = after.text.strip_prefix(&before_text).ok_or_else(|| {
            AgentError::Encoding(
                "the chat template does not begin an agent's message with its own generation prompt".to_owned(),
            )
        })?;
        if let Some(end) = self.turn_end(turn) {
            self.encode_after(&before_text, &turn[..end], after.seam)
        } else {
            let mut ids = self.encode_after(&before_text, turn, after.seam)?;
            ids.push(self.end_of_turn());
            Ok(ids)
        }
    }

    fn decode_action(&self, ids: &[u32]) -> Result<Message> {
        let text = self.tokenizer.decode(ids)?;
        let (said, calls) = tool_calls::parse(&text);
        let special = self.tokenizer.added().iter().filter(|token| token.special);
        let said = special.fold(said, |said, token| said.replace(&token.text, ""));
        let mut message = Message::assistant(said);
        if self.template.source().contains("reasoning_content") {
            separate_reasoning(&mut message);
        }
        if !calls.is_empty() {
            let said = message.text().trim().to_owned();
            message.content = Some(Content::Text(said))
                .filter(|content| *content != Content::Text(String::new()));
            message.tool_calls = calls;
        }
        Ok(message)
    }

    fn is_end_of_turn(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    fn end_of_turn(&self) -> u32 {
        self.ends[0]
    }
}

/// Moves what is thought, between `<think>` and `</think>`, out of what is said.
fn separate_reasoning(message: &mut Message) {
    let text = message.text().into_owned();
    if let Some((thought, said)) = text.split_once("</think>") {
        let thought = thought.trim().trim_start_matches("<think>").trim();
        message.content = Some(Content::Text(said.trim_start_matches('\n').to_owned()));
        message.reasoning_content = Some(thought.to_owned()).filter(|thought| !thought.is_empty());
    }
}

impl std::fmt::Debug for ChatCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatCodec")
            .field("tokens", &self.tokenizer.size())
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// What a model's files say about chat.
struct Parts {
    tokenizer: Tokenizer,
    template: String,
    variables: Map<String, Value>,
    /// Tokens that end a turn, by their text.
    ends: Vec<String>,
}

impl Parts {
    fn of_folder(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        let config_path = folder.join("tokenizer_config.json");
        let config = if config_path.exists() {
            read_json(&config_path)?
        } else {
            Value::Null
        };
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            // Tokens may be written with their properties.
            Value::Object(token) => token
                .get("content")
                .and_then(Value::as_str)
                .map(str::to_owned),
            _ => None,
        };
        let mut variables = Map::new();
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            if let Some(token) = text(&config[name]) {
                variables.insert(name.to_owned(), token.into());
            }
        }
        // A file of its own wins over the field, and the default over templates of other names.
        let file = folder.join("chat_template.jinja");
        let template = match std::fs::read_to_string(&file) {
            Ok(source) => Some(source),
            Err(_) => match &config["chat_template"] {
                Value::Array(named) => named
                    .iter()
                    .find(|entry| entry["name"] == "default")
                    .and_then(|entry| text(&entry["template"])),
                field => text(field),
            },
        };
        let mut ends: Vec<String> = text(&config["eos_token"]).into_iter().collect();
        let generation = folder.join("generation_config.json");
        if generation.exists() {
            let ids = match &read_json(&generation)?["eos_token_id"] {
                Value::Array(ids) => ids.clone(),
                id => vec![id.clone()],
            };
            let ids = ids.iter().filter_map(Value::as_u64).map(|id| id as u32);
            ends.extend(
                ids.filter_map(|id| tokenizer.added().iter().find(|t| t.id == id))
                    .map(|t| t.text.clone()),
            );
        }
        Ok(Self {
            tokenizer,
            template: template.unwrap_or_else(|| NO_TEMPLATE.to_owned()),
            variables,
            ends,
        })
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let mut variables = Map::new();
        let mut ends = Vec::new();
        for name in ["bos", "eos"] {
            if let Some(id) = file.count_if_any(&format!("tokenizer.ggml.{name}_token_id"))?
                && let Some(token) = tokens.get(id)
            {
                variables.insert(format!("{name}_token"), (*token).into());
                if name == "eos" {
                    ends.push((*token).to_owned());
                }
            }
        }
        Ok(Self {
            tokenizer: gguf::tokenizer(&file)?,
            template: match file.value("tokenizer.chat_template") {
                None => NO_TEMPLATE.to_owned(),
                Some(_) => file.text("tokenizer.chat_template")?.to_owned(),
            },
            variables,
            ends,
        })
    }
}
