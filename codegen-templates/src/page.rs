//! The page that shows what quantization does to a model.

use askama::Template;

/// A row of the table of tensors: the text of each cell.
#[derive(Debug, Clone)]
pub struct Row {
    /// Name of the tensor.
    pub tensor: String,
    /// The ONNX nodes that compute it.
    pub nodes: String,
    /// Further cells.
    pub cells: Vec<String>,
    /// Whether it deserves attention.
    pub bad: bool,
    /// Pictures of its values and its weights, SVG.
    pub pictures: Vec<String>,
}

/// A picture with its heading.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// SVG.
    pub svg: String,
}

/// `NAME.report.html`: needs nothing but itself.
#[derive(Debug, Template)]
#[template(path = "page/report.html")]
pub struct Page {
    /// Name of the model.
    pub title: String,
    /// Facts: name and value.
    pub facts: Vec<(String, String)>,
    /// What would help, one sentence each.
    pub advice: Vec<String>,
    /// Large pictures.
    pub figures: Vec<Figure>,
    /// Headings of [`Row::cells`], with an explanation.
    pub columns: Vec<(String, String)>,
    /// The tensors.
    pub rows: Vec<Row>,
}
