//! Legal, unique identifiers from the names of a model.

use std::collections::BTreeSet;

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
    let replaced: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    replaced.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

/// The prefix of every symbol of a model: an identifier that does not begin with a digit.
pub fn prefix(text: &str) -> String {
    let name = identifier(text);
    match name.chars().next() {
        None => "model".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("model_{name}"),
        Some(_) => name,
    }
}
