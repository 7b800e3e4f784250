//! Diagnostics: what went wrong, where in the user's files, and what to do about it.
//!
//! A diagnostic is a plain value. Stages collect as many as they can and hand them back; nothing in
//! here prints, reads files or knows about terminals. `cli/render.rs` draws them.

use std::fmt;

/// The outcome of a stage that can find several problems at once.
pub type Result<T> = std::result::Result<T, Diagnostics>;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The work goes on, but the user should know.
    Warning,
    /// Nothing useful can be produced.
    Error,
}

/// One list gives each code its variant, its printed text and its explanation.
macro_rules! codes {
    ($(#[doc = $doc:literal] $variant:ident = $text:literal,)+) => {
        /// The kind of a problem. The text of a code is part of the interface and does not change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $doc] $variant,)+
        }

        impl Code {
            /// Every code, in the order of their declaration.
            pub const ALL: &[Code] = &[$(Code::$variant,)+];

            /// The text that is printed in brackets, in kebab case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $text,)+
                }
            }

            /// One sentence that explains the code.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Code::$variant => $doc.trim_ascii(),)+
                }
            }
        }
    };
}

codes! {
    /// A file or folder could not be read, or a file ends before its contents do.
    Io = "io",
    /// The file is not an ONNX model.
    NotOnnx = "not-onnx",
    /// The file is an ONNX model, but damaged.
    CorruptModel = "corrupt-model",
    /// Weights are stored outside the model file and cannot be found or do not fit.
    ExternalData = "external-data",
    /// The operator cannot be compiled.
    UnsupportedOp = "unsupported-op",
    /// The operator belongs to an operator set other than the standard one.
    UnsupportedDomain = "unsupported-domain",
    /// The model asks for a version of the operator set that is not known.
    UnsupportedOpset = "unsupported-opset",
    /// The operator is known, but not with this attribute or attribute value.
    UnsupportedAttribute = "unsupported-attribute",
    /// A dimension of an input has no fixed size and none was given.
    UnknownDimension = "unknown-dimension",
    /// The graph contradicts the ONNX specification: a cycle, a missing tensor, a duplicate name.
    InvalidGraph = "invalid-graph",
    /// The shapes of the operands of an operator do not fit together.
    ShapeMismatch = "shape-mismatch",
    /// An operand must be known at compile time but is computed by the model.
    DynamicOperand = "dynamic-operand",
    /// The shape of sample data does not fit the model's input.
    CalibrationShape = "calibration-shape",
    /// The element type of sample data cannot be read as numbers.
    CalibrationType = "calibration-type",
    /// There is no sample data where some is needed.
    CalibrationEmpty = "calibration-empty",
    /// Sample data, weights or activations hold NaN or infinity.
    NonFinite = "non-finite",
    /// A tensor had the same value in every sample.
    ConstantTensor = "constant-tensor",
    /// The values of a tensor are so small that no step divides them: it becomes the constant 0.
    DegenerateRange = "degenerate-range",
    /// A tensor that is quantized has no range.
    MissingRange = "missing-range",
    /// A range is not usable: its ends are swapped or not finite, or it does not fit the layer.
    InvalidRange = "invalid-range",
    /// An accumulator could exceed the integer type that holds it.
    AccumulatorOverflow = "accumulator-overflow",
    /// The output cannot be written.
    OutputUnwritable = "output-unwritable",
    /// Writing would replace files that ptqc did not make.
    OutputNotOurs = "output-not-ours",
    /// Files that were emitted before are not what would be emitted now.
    OutOfDate = "out-of-date",
    /// A build script lacks what it needs: cargo's environment, or a C compiler that accepts the emitted code.
    BuildScript = "build-script",
    /// A compiler, emulator or other program that a measurement needs is missing or fails.
    Toolchain = "toolchain",
    /// There is no target of this name.
    UnknownTarget = "unknown-target",
    /// There is no calibration method of this name.
    UnknownMethod = "unknown-method",
    /// The name cannot be used as an identifier in the emitted code.
    InvalidName = "invalid-name",
    /// Options of the command contradict each other or the model.
    InvalidOption = "invalid-option",
    /// A file of labels cannot be used.
    Labels = "labels",
    /// A file of ranges cannot be used.
    RangesFile = "ranges-file",
    /// A file with the precision of layers and tensors cannot be used, or does not fit the model.
    RecipeFile = "recipe-file",
    /// An input uses few of the 256 values that 8 bits offer.
    LowResolution = "low-resolution",
    /// Data has to be copied at run time to change its layout.
    LayoutCopy = "layout-copy",
    /// Quantization costs a layer much of its accuracy.
    Accuracy = "accuracy",
    /// ptqc broke one of its own rules; this is never the user's mistake.
    Internal = "internal",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the problem is, in the user's words. Any part may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Path of the file as the user wrote it, with a line if there is one (`net.ranges.toml:12`).
    pub file: Option<String>,
    /// Name of the ONNX node.
    pub node: Option<String>,
    /// Name of the ONNX tensor: an output of `node` if that is given, else any tensor of the model.
    pub tensor: Option<String>,
}

impl Location {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.file.is_none() && self.node.is_none() && self.tensor.is_none()
    }
}

/// Written as it is printed behind the arrow: ``model.onnx: node `/conv1/Conv`, output `y` ``.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tensor_kind = if self.node.is_some() { "output" } else { "tensor" };
        let node = self.node.iter().map(|name| format!("node `{name}`"));
        let tensor = self.tensor.iter().map(|name| format!("{tensor_kind} `{name}`"));
        let inside = node.chain(tensor).collect::<Vec<_>>().join(", ");
        match &self.file {
            Some(file) if inside.is_empty() => f.write_str(file),
            Some(file) => write!(f, "{file}: {inside}"),
            None => f.write_str(&inside),
        }
    }
}

/// One problem: what, where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The kind of problem.
    pub code: Code,
    /// One line without a full stop; names are in backquotes.
    pub message: String,
    /// Where it is.
    pub location: Location,
    /// Facts that help to understand it.
    pub notes: Vec<String>,
    /// What to do, if possible what to type.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without location, notes or help.
    pub fn error(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Error, code, message.into())
    }

    /// A warning without location, notes or help.
    pub fn warning(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Warning, code, message.into())
    }

    /// A broken rule of ptqc itself.
    pub fn internal(message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Code::Internal, message)
    }

    fn new(severity: Severity, code: Code, message: String) -> Diagnostic {
        Diagnostic { severity, code, message, location: Location::default(), notes: Vec::new(), help: None }
    }

    /// Sets the file.
    pub fn file(mut self, path: impl fmt::Display) -> Diagnostic {
        self.location.file = Some(path.to_string());
        self
    }

    /// Sets the ONNX node.
    pub fn node(mut self, name: impl Into<String>) -> Diagnostic {
        self.location.node = Some(name.into());
        self
    }

    /// Sets the ONNX tensor.
    pub fn tensor(mut self, name: impl Into<String>) -> Diagnostic {
        self.location.tensor = Some(name.into());
        self
    }

    /// Adds a note.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// Sets the help text.
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// True for errors, false for warnings.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// True if ptqc is at fault, not the user.
    pub fn is_bug(&self) -> bool {
        self.code == Code::Internal
    }
}

/// The problem on one line, without notes and help.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error if self.is_bug() => "bug",
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        if !self.location.is_empty() {
            write!(f, "{}: ", self.location)?;
        }
        write!(f, "{word}[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Problems in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// No problems.
    pub fn new() -> Diagnostics {
        Diagnostics::default()
    }

    /// Adds a problem.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Keeps the value of `result`, or adds its problems.
    pub fn collect<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|problems| self.extend(problems)).ok()
    }

    /// True if at least one is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    /// True if at least one is a fault of ptqc.
    pub fn has_bugs(&self) -> bool {
        self.0.iter().any(Diagnostic::is_bug)
    }

    /// True if there are neither errors nor warnings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of errors and warnings.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The problems in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Everything as an error if there is an error, else `value`.
    /// Warnings alone are dropped: a stage that has some takes them out first with [`Self::take_warnings`].
    pub fn into_result<T>(self, value: T) -> Result<T> {
        if self.has_errors() { Err(self) } else { Ok(value) }
    }

    /// Takes the warnings out and leaves the errors.
    pub fn take_warnings(&mut self) -> Diagnostics {
        let (errors, warnings) = std::mem::take(&mut self.0).into_iter().partition(Diagnostic::is_error);
        self.0 = errors;
        Diagnostics(warnings)
    }

    /// Names the file in every problem that does not name one yet.
    pub fn in_file(mut self, path: impl fmt::Display) -> Diagnostics {
        for diagnostic in &mut self.0 {
            diagnostic.location.file.get_or_insert_with(|| path.to_string());
        }
        self
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Diagnostics {
        Diagnostics(vec![diagnostic])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Diagnostics {
        Diagnostics(iter.into_iter().collect())
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line for each problem.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.iter().map(Diagnostic::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that looks most like `name`, if one does.
pub fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    let best = scored.filter(|(similarity, _)| *similarity > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, candidate)| candidate)
}

/// The first `limit` names in backquotes, and how many were left out: `` `a`, `b` and 3 more ``.
pub fn list_names<T: AsRef<str>>(names: &[T], limit: usize) -> String {
    let shown: Vec<String> = names.iter().take(limit).map(|name| format!("`{}`", name.as_ref())).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        hidden => format!("{} and {hidden} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_kebab_case_and_explained() {
        let texts: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(code.summary().ends_with('.') && !code.summary().starts_with(' '), "{code}");
        }
    }

    #[test]
    fn a_location_names_what_is_known() {
        let full = Diagnostic::error(Code::Io, "x").file("m.onnx").node("/a/Conv").tensor("y").location;
        assert_eq!(full.to_string(), "m.onnx: node `/a/Conv`, output `y`");
        let tensor = Diagnostic::error(Code::Io, "x").tensor("y").location;
        assert_eq!(tensor.to_string(), "tensor `y`");
        assert_eq!(Diagnostic::error(Code::Io, "x").file("m.onnx").location.to_string(), "m.onnx");
    }

    #[test]
    fn warnings_do_not_fail_a_stage() {
        let mut found = Diagnostics::from(Diagnostic::warning(Code::LayoutCopy, "slow"));
        assert_eq!(found.clone().into_result(7), Ok(7));
        found.push(Diagnostic::error(Code::Io, "gone"));
        assert_eq!(found.take_warnings().len(), 1);
        assert_eq!(found.clone().into_result(7), Err(found.clone()));
        assert_eq!(found.in_file("a.npy").to_string(), "a.npy: error[io]: gone");
    }

    #[test]
    fn long_lists_are_shortened() {
        assert_eq!(list_names(&["a", "b"], 2), "`a`, `b`");
        assert_eq!(list_names(&["a", "b", "c"], 2), "`a`, `b` and 1 more");
    }
}
