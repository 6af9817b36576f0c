//! `Field`: a value inside a row that knows the way to it, so that every complaint names its place.

use serde_json::{Map, Value};

use super::BadRow;

/// Why a row cannot be used; the line is added where it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn at(self, line: usize) -> BadRow {
        BadRow {
            line,
            field: self.field,
            problem: self.problem,
            remedy: self.remedy,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// A value inside a row. `null` is as good as absent.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    /// Such as `chosen[2].role`; `/` for the whole row.
    pub(super) path: String,
    pub(super) value: &'a Value,
}

impl<'a> Field<'a> {
    /// The whole row.
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            path: "/".to_owned(),
            value,
        }
    }

    /// A field of an object.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self {
            path: self.path_of(name),
            value,
        })
    }

    /// The first of several names that is there.
    pub(super) fn any(&self, names: &[&str]) -> Option<Self> {
        names.iter().find_map(|name| self.get(name))
    }

    pub(super) fn need(&self, name: &str) -> Result<Self> {
        self.need_any(&[name])
    }

    /// The first of several names that is there; the first of all is the one that is missed.
    pub(super) fn need_any(&self, names: &[&str]) -> Result<Self> {
        self.object()?;
        self.any(names).ok_or_else(|| Fault {
            field: self.path_of(names.first().unwrap_or(&"")),
            problem: "is missing".to_owned(),
            remedy: "add it, or name the format that the log has".to_owned(),
        })
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "/" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("an object"))
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(super) fn boolean(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    /// A number; JSON has no infinite ones.
    pub(super) fn number(&self) -> Result<f64> {
        self.value
            .as_f64()
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.wrong("a number"))
    }

    /// A whole number that is not negative.
    pub(super) fn count(&self) -> Result<u64> {
        self.value
            .as_u64()
            .ok_or_else(|| self.wrong("a whole number, 0 or more"))
    }

    pub(super) fn list(&self) -> Result<Vec<Self>> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item = |(index, value)| Self {
            path: match self.path.as_str() {
                "/" => format!("[{index}]"),
                path => format!("{path}[{index}]"),
            },
            value,
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A complaint about this value.
    pub(super) fn fault(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            field: self.path.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// The complaint that it is of the wrong type.
    pub(super) fn wrong(&self, expected: &str) -> Fault {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.fault(format!("is {found}"), format!("it must be {expected}"))
    }
}
