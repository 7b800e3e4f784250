//! Ranges as a file: `model.ranges.toml` can be kept under version control, compared and edited by hand.
//!
//! The file holds for each tensor the range that is used and, beside it, what was observed, so that an
//! edit can be judged. Reading is strict: an unknown key is more likely a slip than an extension.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use toml::Spanned;

use super::Method;
use crate::diag::{Code, Diagnostic, Diagnostics, Result};
use crate::ir::Range;
use crate::names::toml_string;

/// The smallest and largest value that were observed. Unlike a range it need not contain 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    min: f32,
    max: f32,
    spread: Option<f32>,
}

impl Observed {
    /// `None` unless both are finite and in order.
    pub fn new(min: f32, max: f32) -> Option<Observed> {
        (min.is_finite() && max.is_finite() && min <= max).then_some(Observed { min, max, spread: None })
    }

    /// The smallest value.
    pub fn min(self) -> f32 {
        self.min
    }

    /// The largest value.
    pub fn max(self) -> f32 {
        self.max
    }

    /// The same with a [`Self::spread`].
    pub fn with_spread(self, spread: Option<f32>) -> Observed {
        Observed { spread, ..self }
    }

    /// A quarter of the tensor's elements vary by no more than this over the samples; known of inputs only.
    /// Where it is but a few steps, one scale does not suit all elements.
    pub fn spread(self) -> Option<f32> {
        self.spread
    }
}

/// What is known of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// The range that quantization uses.
    pub range: Range,
    /// What calibration saw; absent in files written by hand.
    pub observed: Option<Observed>,
}

/// How the ranges were made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Origin {
    /// Name and version of the tool, for example `ptqc 0.1.0`.
    pub tool: String,
    /// File name of the model.
    pub model: String,
    /// SHA-256 of the model file, in hexadecimal.
    pub model_sha256: String,
    /// How ranges were chosen.
    pub method: Method,
    /// File names of the sample data.
    pub data: Vec<String>,
    /// Number of samples.
    pub samples: u64,
}

/// The ranges of a model's tensors, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranges {
    origin: Option<Origin>,
    entries: BTreeMap<String, Entry>,
}

impl Ranges {
    /// No ranges, of unknown origin.
    pub fn new() -> Ranges {
        Ranges::default()
    }

    /// No ranges yet, of known origin.
    pub fn with_origin(origin: Origin) -> Ranges {
        Ranges { origin: Some(origin), entries: BTreeMap::new() }
    }

    /// Sets the entry of a tensor.
    pub fn insert(&mut self, name: impl Into<String>, entry: Entry) {
        self.entries.insert(name.into(), entry);
    }

    /// The range of a tensor.
    pub fn get(&self, name: &str) -> Option<Range> {
        self.entries.get(name).map(|entry| entry.range)
    }

    /// Everything known of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All entries by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How the ranges were made, unless they were written by hand.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The file. Numbers are written in the shortest form that reads back as the same `f32`.
    pub fn to_toml(&self) -> String {
        let mut text = head();
        if let Some(origin) = &self.origin {
            let _ = write!(text, "\n{}", origin_table(origin));
        }
        text.push_str("\n[ranges]\n");
        for (name, entry) in &self.entries {
            let _ = writeln!(text, "{} = {}", toml_string(name), inline_table(entry));
        }
        text
    }

    /// Reads what [`Self::to_toml`] writes. Reports every range that is not valid, with its line.
    pub fn from_toml(text: &str) -> Result<Ranges> {
        let file: RangesFile = toml::from_str(text).map_err(|error| not_toml(text, &error))?;
        let mut problems = Diagnostics::new();
        let origin = file.origin.and_then(|origin| problems.collect(read_origin(text, origin)));
        let mut ranges = Ranges { origin, entries: BTreeMap::new() };
        for (name, entry) in file.ranges {
            let line = line_at(text, entry.span().start);
            if let Some(entry) = problems.collect(read_entry(&name, line, entry.get_ref())) {
                ranges.insert(name, entry);
            }
        }
        problems.into_result(ranges)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangesFile {
    origin: Option<OriginTable>,
    ranges: BTreeMap<String, Spanned<EntryTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OriginTable {
    tool: String,
    model: String,
    model_sha256: String,
    method: Spanned<String>,
    data: Vec<String>,
    samples: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryTable {
    min: f64,
    max: f64,
    observed: Option<[f64; 2]>,
    spread: Option<f64>,
}

fn head() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "# Generated by ptqc {version}\n\
         #\n\
         # The range of real numbers that each tensor is quantized for; values outside are clipped.\n\
         # `min` and `max` may be edited; 0 is always included. `observed` is what calibration saw\n\
         # and has no effect. `spread` of an input: a quarter of its elements vary by no more than this; ptqc\n\
         # warns if that is only a few steps. Both may be left out. Tensors are named as in the ONNX model.\n"
    )
}

fn origin_table(origin: &Origin) -> String {
    let data: Vec<String> = origin.data.iter().map(|name| toml_string(name)).collect();
    let mut text = String::from("[origin]\n");
    let _ = writeln!(text, "tool = {}", toml_string(&origin.tool));
    let _ = writeln!(text, "model = {}", toml_string(&origin.model));
    let _ = writeln!(text, "model-sha256 = {}", toml_string(&origin.model_sha256));
    let _ = writeln!(text, "method = {}", toml_string(&origin.method.to_string()));
    let _ = writeln!(text, "data = [{}]", data.join(", "));
    let _ = writeln!(text, "samples = {}", origin.samples);
    text
}

fn inline_table(entry: &Entry) -> String {
    let range = format!("min = {:?}, max = {:?}", entry.range.min(), entry.range.max());
    let Some(observed) = entry.observed else { return format!("{{ {range} }}") };
    let spread = observed.spread.map_or(String::new(), |spread| format!(", spread = {spread:?}"));
    format!("{{ {range}, observed = [{:?}, {:?}]{spread} }}", observed.min, observed.max)
}

fn read_origin(text: &str, table: OriginTable) -> Result<Origin> {
    let line = line_at(text, table.method.span().start);
    let method = table.method.into_inner().parse().map_err(|problems: Diagnostics| {
        problems.into_iter().map(|problem| at_line(line, &problem.message)).collect::<Diagnostics>()
    })?;
    let OriginTable { tool, model, model_sha256, data, samples, .. } = table;
    Ok(Origin { tool, model, model_sha256, method, data, samples })
}

fn read_entry(name: &str, line: usize, table: &EntryTable) -> Result<Entry> {
    let [min, max] = read_pair(["min", "max"], [table.min, table.max]).map_err(|why| bad_entry(name, line, &why))?;
    let observed = table.observed.map(|pair| read_pair(["observed[0]", "observed[1]"], pair));
    let observed = observed.transpose().map_err(|why| bad_entry(name, line, &why))?;
    let spread = table.spread.map(read_spread);
    let spread = spread.transpose().map_err(|why| bad_entry(name, line, why))?;
    let observed = observed.and_then(|[min, max]| Observed::new(min, max)).map(|observed| observed.with_spread(spread));
    let range = Range::new(min, max).ok_or_else(|| bad_entry(name, line, "the range is not valid"))?;
    Ok(Entry { range, observed })
}

/// Both numbers as finite `f32` in order, or what is wrong with them.
fn read_pair(names: [&str; 2], values: [f64; 2]) -> std::result::Result<[f32; 2], String> {
    let [min, max] = values.map(|value| value as f32);
    for (name, value) in names.into_iter().zip([min, max]) {
        if !value.is_finite() {
            return Err(format!("`{name}` is not a finite number of 32 bits"));
        }
    }
    if min > max {
        return Err(format!("`{}` is {min:?}, larger than `{}`, which is {max:?}", names[0], names[1]));
    }
    Ok([min, max])
}

fn read_spread(value: f64) -> std::result::Result<f32, &'static str> {
    let spread = value as f32;
    if spread.is_finite() && spread > 0.0 { Ok(spread) } else { Err("`spread` is not a positive number") }
}

fn bad_entry(name: &str, line: usize, why: &str) -> Diagnostic {
    at_line(line, why).tensor(name).help("correct the line, or run `ptqc calibrate` again")
}

fn not_toml(text: &str, error: &toml::de::Error) -> Diagnostic {
    let message = error.message().trim_end();
    match error.span() {
        Some(span) => at_line(line_at(text, span.start), message),
        None => Diagnostic::error(Code::RangesFile, message),
    }
    .help("a line looks like this: \"/conv1/Relu_output_0\" = { min = 0.0, max = 6.0 }")
}

fn at_line(line: usize, message: &str) -> Diagnostic {
    Diagnostic::error(Code::RangesFile, format!("line {line}: {message}"))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::histogram::tests::Random;
    use super::*;

    fn entry(min: f32, max: f32) -> Entry {
        Entry { range: Range::new(min, max).unwrap(), observed: Observed::new(min, max) }
    }

    fn origin() -> Origin {
        Origin {
            tool: "ptqc 0.1.0".to_owned(),
            model: "kws.onnx".to_owned(),
            model_sha256: "00ff".to_owned(),
            method: Method::Percentile(99.9),
            data: vec!["calib.npz".to_owned(), "odd \"name\"\n.npy".to_owned()],
            samples: 200,
        }
    }

    fn first_message(text: &str) -> String {
        let problems = Ranges::from_toml(text).unwrap_err();
        let first = problems.iter().next().unwrap();
        assert_eq!(first.code, Code::RangesFile);
        first.message.clone()
    }

    #[test]
    fn the_file_is_readable() {
        let mut ranges = Ranges::with_origin(origin());
        ranges.insert("/conv1/Relu_output_0", entry(0.5, 6.0));
        ranges.insert("input", Entry { observed: None, ..entry(-1.0, 1e-7) });
        let text = ranges.to_toml();
        assert!(text.starts_with("# Generated by ptqc "), "{text}");
        let body = &text[text.find("[origin]").unwrap()..];
        let expected = r#"[origin]
tool = "ptqc 0.1.0"
model = "kws.onnx"
model-sha256 = "00ff"
method = "percentile:99.9"
data = ["calib.npz", "odd \"name\"\u000a.npy"]
samples = 200

[ranges]
"/conv1/Relu_output_0" = { min = 0.0, max = 6.0, observed = [0.5, 6.0] }
"input" = { min = -1.0, max = 1e-7 }
"#;
        assert_eq!(body, expected);
        assert_eq!(Ranges::from_toml(&text), Ok(ranges));
    }

    #[test]
    fn any_name_and_any_number_round_trips() {
        let mut random = Random(5);
        let mut ranges = Ranges::new();
        for name in ["", "a.b", "a\"b\\c", "\u{7f}\u{85}\t\r\n", "ä = {}", "#", "'''"] {
            ranges.insert(name, entry(-1.0, 1.0));
        }
        for i in 0..2000 {
            let mut number = || f32::from_bits(random.next() as u32);
            let (a, b) = (number(), number());
            if a.is_finite() && b.is_finite() {
                ranges.insert(format!("t{i}"), entry(a.min(b), a.max(b)));
            }
        }
        assert_eq!(Ranges::from_toml(&ranges.to_toml()), Ok(ranges));
    }

    #[test]
    fn files_written_by_hand_need_only_ranges() {
        let ranges =
            Ranges::from_toml("[ranges]\nx = { min = 0, max = 6 }\n[ranges.y]\nmin = -1\nmax = 1.5\n").unwrap();
        assert_eq!(ranges.get("x"), Range::new(0.0, 6.0));
        assert_eq!(ranges.get("y"), Range::new(-1.0, 1.5));
        assert_eq!((ranges.get("z"), ranges.origin()), (None, None));
    }

    #[test]
    fn every_bad_range_is_reported_with_its_line() {
        let text = "[ranges]\na = { min = 2.0, max = 1.0 }\nb = { min = nan, max = 1.0 }\nc = { min = 0, max = 1e40 }\n\
                    d = { min = 0, max = 1, observed = [2, 1] }\n";
        let problems = Ranges::from_toml(text).unwrap_err();
        let lines: Vec<String> = problems.iter().map(|p| p.message.chars().take(6).collect()).collect();
        assert_eq!(lines, ["line 2", "line 3", "line 4", "line 5"]);
        assert!(problems.iter().all(|p| p.code == Code::RangesFile && p.location.tensor.is_some()));
    }

    #[test]
    fn the_spread_is_optional_and_kept() {
        let text = "[ranges]\nx = { min = 0, max = 6, observed = [0, 6], spread = 0.25 }\ny = { min = 0, max = 6 }\n";
        let ranges = Ranges::from_toml(text).unwrap();
        let spread = |name: &str| ranges.entry(name).unwrap().observed.and_then(Observed::spread);
        assert_eq!((spread("x"), spread("y")), (Some(0.25), None));
        assert_eq!(Ranges::from_toml(&ranges.to_toml()).as_ref(), Ok(&ranges));
        assert!(Ranges::from_toml(&text.replace("0.25", "-1")).is_err());
    }

    #[test]
    fn slips_are_errors() {
        assert!(
            first_message("[ranges]\n\na = { min = 0.0, max = 1.0, mox = 2 }\n").starts_with("line 3: unknown field")
        );
        assert!(first_message("[ranges]\na = { min = \"0\", max = 1.0 }\n").starts_with("line 2: "));
        assert!(first_message("[ranges]\na = { min = 0.0 }\n").contains("missing field `max`"));
        assert!(first_message("[ranges]\na = { min = 0 max = 1 }\n").starts_with("line 2: "));
        assert!(
            first_message("[ranges]\na = { min = 0, max = 1 }\na = { min = 0, max = 1 }\n").starts_with("line 3: ")
        );
        assert!(first_message("range = 3\n").starts_with("line 1: unknown field"));
        assert!(first_message("").contains("missing field `ranges`"));
        let method = "[origin]\ntool = \"\"\nmodel = \"\"\nmodel-sha256 = \"\"\nmethod = \"kl\"\n\
                      data = []\nsamples = 1\n[ranges]\n";
        assert!(first_message(method).starts_with("line 5: there is no calibration method"));
    }
}
