//! Fields that a log calls by names of its own.

use std::str::FromStr;

use anyhow::bail;
use serde_json::Value;

use super::field::{Field, Result};

/// A field's name in a log, and its name in the format that the log has otherwise: `good=chosen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// What the log calls it.
    pub from: String,
    /// What the format calls it.
    pub to: String,
}

impl FromStr for Rename {
    type Err = anyhow::Error;

    /// Reads `OLD=NEW`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once('=') {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok(Self {
                from: from.to_owned(),
                to: to.to_owned(),
            }),
            _ => bail!("`{text}` is not OLD=NEW, such as good=chosen"),
        }
    }
}

/// What tools are called with, and what is kept as it is, has names of its own.
const APART: [&str; 3] = ["arguments", "tools", "metadata"];

/// Gives the fields of a row, and of the objects in it, their names.
pub(super) fn rename(renames: &[Rename], row: &mut Value) -> Result<()> {
    match row {
        Value::Array(items) => items.iter_mut().try_for_each(|item| rename(renames, item)),
        Value::Object(map) => {
            for Rename { from, to } in renames {
                if map.contains_key(from) && map.contains_key(to) {
                    let both = format!("has both `{from}` and `{to}`");
                    let remedy = "leave one out, or rename it to something else";
                    return Err(Field::root(&Value::Null).fault(both, remedy));
                }
            }
            for (name, mut value) in std::mem::take(map) {
                if !APART.contains(&name.as_str()) {
                    rename(renames, &mut value)?;
                }
                let new = renames.iter().find(|rename| rename.from == name);
                map.insert(new.map_or(name, |rename| rename.to.clone()), value);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
