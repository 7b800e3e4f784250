//! Legal, unique identifiers from the names of a model.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Gives out identifiers, each once.
#[derive(Debug, Default)]
pub struct Namer {
    used: BTreeSet<String>,
}

impl Namer {
    /// `wanted`, or with a number behind it if it has been given out before.
    pub fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }
}

/// `text` in lower case with everything but ASCII letters, digits and single underscores removed.
pub fn identifier(text: &str) -> String {
    let replaced: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    replaced.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

/// The prefix of every symbol of a model: `text` with every run of other characters than ASCII letters, digits and
/// underscores as one underscore, and a letter in front.
pub fn prefix(text: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let parts = text.split(|c| !legal(c)).filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("_");
    match name.chars().next() {
        None => "model".to_owned(),
        // Names that begin with an underscore belong to the language's implementation.
        Some(first) if !first.is_ascii_alphabetic() => format!("model_{}", name.trim_start_matches('_')),
        Some(_) => name,
    }
}

/// A TOML basic string on one line: a value, or a key whatever its letters.
pub fn toml_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_identifiers_and_keep_what_they_can() {
        let cases = [
            ("kws", "kws"),
            ("MyModel_v2", "MyModel_v2"),
            ("my model-v2.int8", "my_model_v2_int8"),
            ("2nd", "model_2nd"),
            ("__x", "model_x"),
            ("äö", "model"),
            ("", "model"),
        ];
        for (text, expected) in cases {
            assert_eq!(prefix(text), expected);
            assert_eq!(prefix(expected), expected);
        }
    }

    #[test]
    fn names_are_given_out_once() {
        let mut namer = Namer::default();
        assert_eq!([namer.unique("a"), namer.unique("a"), namer.unique("a_2")], ["a", "a_2", "a_2_2"]);
    }
}
