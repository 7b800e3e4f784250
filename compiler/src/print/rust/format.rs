//! From tokens to text that rustfmt leaves as it is.

use proc_macro2::TokenStream;

use super::stmt::COMMENT;

/// The widest line of rustfmt.
const RUSTFMT_LINE: usize = 100;
/// The widest arguments that rustfmt leaves on the line of their call.
pub const RUSTFMT_CALL: usize = 60;
/// The widest arguments of which rustfmt puts several on a line.
const RUSTFMT_SHORT: usize = 10;

/// Items with empty lines between them.
pub fn items(items: &[TokenStream]) -> String {
    let texts: Vec<String> = items.iter().map(item).collect();
    texts.join("\n")
}

fn item(tokens: &TokenStream) -> String {
    let file =
        syn::parse2(tokens.clone()).unwrap_or_else(|error| panic!("printed items are Rust: {error} in {tokens}"));
    let text = prettyplease::unparse(&file);
    space_functions(&comments(&join_values(&join_signatures(&text))))
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

/// Values that have been broken before an operator, and calls that have been broken around arguments that rustfmt
/// keeps together.
fn join_values(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut result = String::new();
    let mut rest = &lines[..];
    while let [line, behind @ ..] = rest {
        let (text, used) =
            joined_operator(line, behind).or_else(|| joined_call(line, behind)).unwrap_or(((*line).to_owned(), 0));
        result += &text;
        result.push('\n');
        rest = &behind[used..];
    }
    result
}

/// A value and the last operator with its operand, if they fit a line; the lines that were used up.
fn joined_operator(line: &str, behind: &[&str]) -> Option<(String, usize)> {
    let operator = behind.first()?.trim_start();
    let is_operator = ["as ", "* ", "+ ", "- ", ">> "].iter().any(|start| operator.starts_with(start));
    let joined = format!("{line} {operator}");
    (line.contains(" = ") && is_operator && operator.ends_with(';') && joined.len() <= RUSTFMT_LINE)
        .then_some((joined, 1))
}

/// A call whose arguments stand on a line each, as rustfmt sets it: in one line if that is short enough, or with all
/// arguments on one line if they are short; the lines that were used up.
fn joined_call(line: &str, behind: &[&str]) -> Option<(String, usize)> {
    if !(line.ends_with('(') && line.contains(" = ")) {
        return None;
    }
    let end = behind.iter().position(|line| line.trim() == ");")?;
    let args: Option<Vec<&str>> = behind[..end].iter().map(|line| line.trim().strip_suffix(',')).collect();
    let args = args?;
    let joined = args.join(", ");
    if joined.len() <= RUSTFMT_CALL && line.len() + joined.len() + ");".len() <= RUSTFMT_LINE {
        return Some((format!("{line}{joined});"), end + 1));
    }
    let indent = &behind[0][..behind[0].len() - behind[0].trim_start().len()];
    let is_short = args.iter().all(|arg| arg.len() <= RUSTFMT_SHORT) && indent.len() + joined.len() < RUSTFMT_LINE;
    (is_short && args.len() > 1).then(|| (format!("{line}\n{indent}{joined},"), end))
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
