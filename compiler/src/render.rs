//! Draws diagnostics the way rustc draws its own, on standard error, in colour only on a terminal.

use std::fmt::Write as _;

use annotate_snippets::{Element, Group, Level, Message, Origin, Renderer};

use crate::diag::{Diagnostic, Diagnostics, Severity};

/// Exit code after a mistake of the user.
pub const EXIT_USER: u8 = 1;

/// Exit code after a fault of ptqc.
pub const EXIT_BUG: u8 = 2;

/// The exit code that these diagnostics ask for; warnings alone are a success.
pub fn exit_code(diagnostics: &Diagnostics) -> u8 {
    match (diagnostics.has_bugs(), diagnostics.has_errors()) {
        (true, _) => EXIT_BUG,
        (false, true) => EXIT_USER,
        (false, false) => 0,
    }
}

/// Prints to standard error. Colours are dropped unless that is a terminal.
#[cfg(feature = "cli")]
pub fn print(diagnostics: &Diagnostics) {
    let text = render(diagnostics, &Renderer::styled());
    // A closed standard error leaves nobody to tell.
    let _ = std::io::Write::write_all(&mut anstream::stderr(), text.as_bytes());
}

/// The text without colours, for logs and tests.
pub fn render_plain(diagnostics: &Diagnostics) -> String {
    render(diagnostics, &Renderer::plain())
}

fn render(diagnostics: &Diagnostics, renderer: &Renderer) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        let drawn = renderer.render(&[report(diagnostic)]);
        let _ = writeln!(text, "{}\n", indent_details(&drawn));
    }
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    if errors > 1 {
        let total = Group::with_title(Level::ERROR.primary_title(format!("{errors} problems found")));
        let _ = writeln!(text, "{}", renderer.render(&[total]));
    }
    text
}

fn report(diagnostic: &Diagnostic) -> Group<'_> {
    let title = level(diagnostic).primary_title(one_line(&diagnostic.message)).id(diagnostic.code.as_str());
    let origin = (!diagnostic.location.is_empty()).then(|| Origin::path(one_line(&diagnostic.location.to_string())));
    Group::with_title(title)
        .elements(origin.map(Element::from))
        .elements(diagnostic.notes.iter().map(|note| Level::NOTE.message(printable(note))))
        .elements(bug_notes(diagnostic))
        .elements(diagnostic.help.iter().map(|help| Level::HELP.message(printable(help))))
}

fn level(diagnostic: &Diagnostic) -> Level<'static> {
    match diagnostic.severity {
        Severity::Error if diagnostic.is_bug() => Level::ERROR.with_name("bug"),
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    }
}

fn bug_notes(diagnostic: &Diagnostic) -> Vec<Message<'static>> {
    if !diagnostic.is_bug() {
        return Vec::new();
    }
    let blame = "this is a mistake in ptqc, not in your model or data";
    let request = "please report it, with the command and, if you may share it, the model";
    let version = concat!("version: ptqc ", env!("CARGO_PKG_VERSION"));
    vec![Level::NOTE.message(blame), Level::NOTE.message(version), Level::HELP.message(request)]
}

/// Titles and locations are single lines; a line break in a name of the model must not draw a second one.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Names come from the user's files; control characters in them must not steer the terminal.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', " ")
}

/// Without line numbers the renderer starts at the margin; two columns set the details off from the title.
fn indent_details(drawn: &str) -> String {
    drawn.replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;

    fn gelu() -> Diagnostic {
        Diagnostic::error(Code::UnsupportedOp, "`Gelu` cannot be quantized yet")
            .file("model.onnx")
            .node("/blocks.0/act/Gelu")
            .tensor("/blocks.0/act/Gelu_output_0")
            .note("3 more nodes use it: `/blocks.1/act/Gelu`, ...")
            .help("activations supported: Relu, Clip (`ptqc ops` lists all)")
    }

    #[test]
    fn looks_like_rustc() {
        let expected = "\
error[unsupported-op]: `Gelu` cannot be quantized yet
  --> model.onnx: node `/blocks.0/act/Gelu`, output `/blocks.0/act/Gelu_output_0`
   = note: 3 more nodes use it: `/blocks.1/act/Gelu`, ...
   = help: activations supported: Relu, Clip (`ptqc ops` lists all)

";
        assert_eq!(render_plain(&gelu().into()), expected);
    }

    #[test]
    fn several_errors_are_counted_and_warnings_are_not() {
        let mut found = Diagnostics::from(gelu());
        found.push(Diagnostic::warning(Code::LayoutCopy, "input is copied"));
        assert!(!render_plain(&found).contains("problems found"));
        found.push(gelu());
        let text = render_plain(&found);
        assert!(text.contains("\nwarning[layout-copy]: input is copied\n"), "{text}");
        assert!(text.ends_with("\nerror: 2 problems found\n"), "{text}");
    }

    #[test]
    fn bugs_look_different() {
        let found = Diagnostics::from(Diagnostic::internal("two layers share a span"));
        let text = render_plain(&found);
        assert!(text.starts_with("bug[internal]: two layers share a span\n"), "{text}");
        assert!(text.contains("please report it"), "{text}");
        assert_eq!(exit_code(&found), 2);
    }

    #[test]
    fn exit_codes_tell_mistakes_from_warnings() {
        assert_eq!(exit_code(&gelu().into()), 1);
        assert_eq!(exit_code(&Diagnostic::warning(Code::LayoutCopy, "slow").into()), 0);
    }

    #[test]
    fn names_from_a_model_cannot_forge_lines_or_colours() {
        let found =
            Diagnostic::error(Code::InvalidGraph, "bad\nerror: forged").node("a\u{1b}[31m\nb").note("\u{1b}]0;");
        let text = render_plain(&found.into());
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn colour_is_only_added_by_the_styled_renderer() {
        assert!(render(&gelu().into(), &Renderer::styled()).contains("\u{1b}["));
        assert!(!render_plain(&gelu().into()).contains('\u{1b}'));
    }
}
