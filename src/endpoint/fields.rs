//! The fields of a request that not every server knows.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// What may be left out, or called by another name, in the order in which it is suspected: what few servers know comes
/// first.
const OPTIONAL: [(&str, Option<&str>); 4] = [
    ("return_token_ids", None),
    ("max_tokens", Some("max_completion_tokens")),
    ("logprobs", None),
    ("seed", None),
];

/// The fields that a server has refused so far.
#[derive(Debug, Default)]
pub(super) struct Fields(Mutex<BTreeSet<&'static str>>);

impl Fields {
    /// `request` as this server takes it.
    pub(super) fn of(&self, request: &Value) -> Value {
        let mut request = request.clone();
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (field, other) in OPTIONAL {
            if refused.contains(field)
                && let Some(object) = request.as_object_mut()
                && let Some(value) = object.shift_remove(field)
                && let Some(other) = other
            {
                object.insert(other.to_owned(), value);
            }
        }
        request
    }

    /// Leaves out, from now on, the first field of `request` that `complaint` names and that can be left out; false where
    /// there is none. A field with another name is only given that where the complaint asks for it.
    pub(super) fn refuse(&self, request: &Value, complaint: &str) -> bool {
        let names = |word: &str| {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            complaint.split(|c| !is_part(c)).any(|part| part == word)
        };
        let mut fields = OPTIONAL.into_iter();
        let Some((field, _)) = fields.find(|(field, other)| {
            request.get(field).is_some() && names(field) && other.is_none_or(names)
        }) else {
            return false;
        };
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.insert(field) {
            tracing::warn!("the server refuses the field `{field}` and is asked without it");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_server_complains_of_is_left_out() {
        let fields = Fields::default();
        let whole = json!({"model": "m", "max_tokens": 9, "seed": 1, "logprobs": true, "return_token_ids": true});
        assert_eq!(fields.of(&whole), whole);
        for (complaint, expected) in [
            ("max_tokens is too large: 9", false),
            ("seeds are for birds, logprobs_k for experts", false),
            (
                "Unrecognized request argument supplied: return_token_ids",
                true,
            ),
            ("`return_token_ids` again", false),
            (
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
                true,
            ),
            (
                r#"{"loc":["body","seed"],"msg":"Extra inputs are not permitted"}"#,
                true,
            ),
        ] {
            let request = fields.of(&whole);
            assert_eq!(fields.refuse(&request, complaint), expected, "{complaint}");
        }
        let left = json!({"model": "m", "logprobs": true, "max_completion_tokens": 9});
        assert_eq!(fields.of(&whole), left);
    }
}
