//! What the providers of closed models read for preference tuning: `OpenAI` (and Azure, Together), Fireworks,
//! Gemini.

use serde_json::Value;
use socratiq_envs::{Arguments, FunctionCall, Message, Role, ToolCall};

use super::common_start::{Side, preference};
use super::field::{Field, Result};
use super::message::{messages, tools};
use super::{Preference, Turns};

/// `{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}`; an older schema calls the
/// sides `preferred_completion` and `non_preferred_completion`.
pub(super) fn openai(row: &Field) -> Result<Preference> {
    let input = row.need("input")?;
    let prompt = messages(&input.need("messages")?)?;
    let chosen = row.need_any(&["preferred_output", "preferred_completion"])?;
    let rejected = row.need_any(&["non_preferred_output", "non_preferred_completion"])?;
    let mut preference = preference(
        row,
        Some(Turns::Chat(prompt)),
        Side::chat(&chosen, messages(&chosen)?),
        vec![Side::chat(&rejected, messages(&rejected)?)],
    )?;
    if preference.tools.is_empty() {
        preference.tools = tools(&input)?;
    }
    Ok(preference)
}

/// `{"chosen": {"messages"}, "rejected": {"messages"}}`: whole dialogues.
pub(super) fn fireworks(row: &Field) -> Result<Preference> {
    let (chosen, rejected) = (row.need("chosen")?, row.need("rejected")?);
    let side = |side: &Field| -> Result<Side> {
        let field = side.need("messages")?;
        Ok(Side::chat(&field, messages(&field)?))
    };
    let mut preference = preference(row, None, side(&chosen)?, vec![side(&rejected)?])?;
    if preference.tools.is_empty() {
        preference.tools = tools(&chosen)?;
    }
    Ok(preference)
}

/// `{"system_instruction"?, "contents", "completions": [{"score", "completion"}, …]}`: the completion with the
/// highest score is chosen, those with lower scores are rejected, best first.
pub(super) fn gemini(row: &Field) -> Result<Preference> {
    let mut prompt = Vec::new();
    if let Some(system) = row.any(&["system_instruction", "systemInstruction"]) {
        prompt.push(Message {
            role: Role::System,
            ..content(&system)?
        });
    }
    for item in row.need("contents")?.list()? {
        prompt.push(content(&item)?);
    }
    let completions = row.need("completions")?;
    let mut scored = Vec::new();
    for item in completions.list()? {
        let completion = item.need("completion")?;
        let side = match completion.value {
            Value::Array(_) => completion
                .list()?
                .iter()
                .map(content)
                .collect::<Result<_>>()?,
            _ => vec![content(&completion)?],
        };
        scored.push((item.need("score")?.number()?, Side::chat(&completion, side)));
    }
    let (chosen, rejected) = best_first(&completions, scored)?;
    preference(row, Some(Turns::Chat(prompt)), chosen, rejected)
}

/// The one with the highest score, and those with lower ones.
pub(super) fn best_first(field: &Field, mut scored: Vec<(f64, Side)>) -> Result<(Side, Vec<Side>)> {
    // Stable, so equal scores stay in the row's order.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut sides = scored.into_iter();
    if let Some((best, chosen)) = sides.next() {
        let rejected: Vec<Side> = sides
            .skip_while(|(score, _)| *score >= best)
            .map(|(_, side)| side)
            .collect();
        if !rejected.is_empty() {
            return Ok((chosen, rejected));
        }
    }
    Err(field.fault(
        "none is better than another",
        "at least two must differ in their score or rank",
    ))
}

/// `{"role": "user"|"model", "parts": [{"text"}, {"functionCall"}, {"functionResponse"}]}`.
fn content(field: &Field) -> Result<Message> {
    let role = match field.get("role") {
        None => Role::User,
        Some(role) => match role.text()? {
            "model" => Role::Assistant,
            "user" => Role::User,
            "function" => Role::Tool,
            "system" => Role::System,
            other => {
                return Err(role.fault(
                    format!("`{other}` is not a role"),
                    "Gemini has user, model and function",
                ));
            }
        },
    };
    let mut message = Message::new(role, "");
    let mut said = String::new();
    for part in field.need("parts")?.list()? {
        if let Some(text) = part.get("text") {
            said.push_str(text.text()?);
        } else if let Some(call) = part.any(&["functionCall", "function_call"]) {
            message.tool_calls.push(ToolCall {
                id: None,
                kind: Some("function".to_owned()),
                function: FunctionCall {
                    name: call.need("name")?.text()?.to_owned(),
                    arguments: match call.get("args") {
                        Some(arguments) => Arguments::Object(arguments.object()?.clone()),
                        None => Arguments::default(),
                    },
                    extra: serde_json::Map::new(),
                },
                extra: serde_json::Map::new(),
            });
        } else if let Some(response) = part.any(&["functionResponse", "function_response"]) {
            message.role = Role::Tool;
            message.name = Some(response.need("name")?.text()?.to_owned());
            said.push_str(&response.need("response")?.value.to_string());
        } else {
            return Err(part.fault(
                "is not text, a function call or a function response",
                "leave the row out: other parts are not understood",
            ));
        }
    }
    message.content = match said.is_empty() && !message.tool_calls.is_empty() {
        true => None,
        false => Some(socratiq_envs::Content::Text(said)),
    };
    Ok(message)
}
