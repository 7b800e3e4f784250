//! From tokens to text that rustfmt leaves as it is.

use proc_macro2::TokenStream;

use super::stmt::COMMENT;

/// The widest line of rustfmt.
const RUSTFMT_LINE: usize = 100;

/// Items with empty lines between them.
pub fn items(items: &[TokenStream]) -> String {
    let texts: Vec<String> = items.iter().map(item).collect();
    texts.join("\n")
}

fn item(tokens: &TokenStream) -> String {
    let file =
        syn::parse2(tokens.clone()).unwrap_or_else(|error| panic!("printed items are Rust: {error} in {tokens}"));
    let text = prettyplease::unparse(&file);
    space_functions(&comments(&join_stores(&join_signatures(&text))))
}

/// Calls of the comment macro become comments; long ones have been broken over three lines.
fn comments(text: &str) -> String {
    let (open, close) = (format!("{COMMENT}!("), ");");
    let mut result = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(rest) = line.trim_start().strip_prefix(&open) else {
            result += &format!("{line}\n");
            continue;
        };
        let argument = match rest.strip_suffix(close) {
            Some(argument) => argument,
            None => lines.by_ref().take_while(|line| line.trim() != close).last().unwrap_or_default().trim(),
        };
        let quoted = argument.trim_end_matches(',');
        let comment = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted);
        let comment = comment.replace("\\\"", "\"").replace("\\\\", "\\");
        result += &format!("{indent}// {comment}\n");
    }
    result
}

/// Heads of functions that have been broken over lines, although rustfmt would not.
fn join_signatures(text: &str) -> String {
    let mut result = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if !(line.contains("fn ") && line.ends_with('(')) {
            result += line;
            result.push('\n');
            continue;
        }
        let mut broken = vec![line];
        for next in lines.by_ref() {
            broken.push(next);
            if next.trim_start().starts_with(')') {
                break;
            }
        }
        let (parameters, end) = (&broken[1..broken.len() - 1], broken[broken.len() - 1]);
        let parameters: Vec<&str> = parameters.iter().map(|p| p.trim()).collect();
        let joined = format!("{line}{}{}", parameters.join(" ").trim_end_matches(','), end.trim_start());
        result += &if joined.len() <= RUSTFMT_LINE { joined } else { broken.join("\n") };
        result.push('\n');
    }
    result
}

/// Stores that have been broken before a cast, or around the argument of a call, although rustfmt would not.
fn join_stores(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut result = String::new();
    let mut rest = &lines[..];
    while let [line, behind @ ..] = rest {
        let (joined, used) = match behind {
            [cast, ..] if cast.trim_start().starts_with("as ") => (format!("{line} {}", cast.trim_start()), 1),
            [value, end, ..] if line.ends_with('(') && line.contains(" = store_") && end.trim() == ");" => {
                (format!("{line}{});", value.trim().trim_end_matches(',')), 2)
            }
            _ => ((*line).to_owned(), 0),
        };
        let (text, used) = if joined.len() <= RUSTFMT_LINE { (joined, used) } else { ((*line).to_owned(), 0) };
        result += &text;
        result.push('\n');
        rest = &behind[used..];
    }
    result
}

/// Empty lines between the items of a module or implementation.
fn space_functions(text: &str) -> String {
    let mut result = String::new();
    let mut after_item = false;
    for line in text.lines() {
        if after_item && line.starts_with("    ") {
            result.push('\n');
        }
        result += line;
        result.push('\n');
        after_item = line == "    }" || line.starts_with("    use ");
    }
    result
}
