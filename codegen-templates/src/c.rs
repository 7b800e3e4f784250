//! Files of the C output.

use askama::Template;

/// A buffer of the model's interface.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Parameter name, for example `input_0`.
    pub parameter: String,
    /// Prefix of its macros, for example `KWS_INPUT_0`.
    pub macro_prefix: String,
    /// Name in the ONNX model.
    pub onnx_name: String,
    /// C element type.
    pub c_type: &'static str,
    /// Number of elements.
    pub len: usize,
    /// Shape, for example `1, 49, 10, 1`.
    pub dims: String,
    /// The step as a C literal and the zero point; `None` where elements are positions.
    pub params: Option<(String, i32)>,
}

/// `NAME.h`.
#[derive(Debug, Template)]
#[template(path = "c/header.h.txt", escape = "none")]
pub struct Header {
    /// Comment lines that say where the file comes from.
    pub provenance: Vec<String>,
    /// Comment lines with computed facts.
    pub facts: Vec<String>,
    /// Prefix of symbols.
    pub name: String,
    /// Prefix of macros.
    pub upper: String,
    /// Inputs, in order.
    pub inputs: Vec<Tensor>,
    /// Outputs, in order.
    pub outputs: Vec<Tensor>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Whether the caller passes the arena.
    pub caller_arena: bool,
    /// The entry point without semicolon.
    pub prototype: String,
    /// What is kept between inferences.
    pub states: Vec<State>,
    /// The entry point that keeps it, without semicolon.
    pub step: String,
}

/// An input that is an output of the inference before.
#[derive(Debug, Clone)]
pub struct State {
    /// The input's parameter.
    pub input: String,
    /// The output's parameter.
    pub output: String,
    /// Names in the ONNX model.
    pub onnx_names: [String; 2],
    /// C element type.
    pub c_type: &'static str,
    /// Number of elements.
    pub len: usize,
    /// The integer that stands for 0.
    pub zero_point: i32,
}

/// A constant array.
#[derive(Debug, Clone)]
pub struct Array {
    /// Symbol.
    pub symbol: String,
    /// C element type.
    pub c_type: &'static str,
    /// Number of elements.
    pub len: usize,
    /// One sentence.
    pub doc: String,
    /// The values, in lines.
    pub lines: Vec<String>,
}

/// `NAME_weights.c`.
#[derive(Debug, Template)]
#[template(path = "c/weights.c.txt", escape = "none")]
pub struct Weights {
    /// Comment lines that say where the file comes from.
    pub provenance: Vec<String>,
    /// Prefix of macros.
    pub upper: String,
    /// `const `, or nothing where start-up code copies constants to RAM.
    pub constant: &'static str,
    /// The section of the constants.
    pub section: Option<String>,
    /// All constants.
    pub arrays: Vec<Array>,
}

/// A small function that layers use.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The condition under which it is needed; empty if it always is.
    pub guard: String,
    /// The function.
    pub text: String,
}

/// The steps for processors with some vector instructions.
#[derive(Debug, Clone)]
pub struct Level {
    /// Its number, at least 1; the larger the better.
    pub number: usize,
    /// The condition of the preprocessor under which the compiler's flags promise the instructions.
    pub promised: &'static str,
    /// The condition that tells at run time whether the processor has them.
    pub supported: String,
    /// Symbol of the function.
    pub symbol: String,
    /// Its attribute, with a line end.
    pub attribute: String,
    /// Its parameters.
    pub parameters: String,
    /// Its arguments.
    pub arguments: String,
    /// Parameters that no step needs.
    pub unused: Vec<String>,
    /// Its statements.
    pub steps: Vec<Step>,
}

/// A function.
#[derive(Debug, Clone)]
pub struct Function {
    /// The condition under which it is needed; empty if it always is.
    pub guard: String,
    /// Lines of the comment above it.
    pub doc: Vec<String>,
    /// Everything up to the opening brace.
    pub signature: String,
    /// The body, indented.
    pub body: String,
}

/// A function of assembly.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Lines of the comment above it.
    pub doc: Vec<String>,
    /// Its declaration without semicolon.
    pub prototype: String,
    /// Its symbol.
    pub symbol: String,
    /// Directives in front of its label.
    pub directives: &'static [&'static str],
    /// The instructions.
    pub lines: Vec<String>,
}

/// Calls of the entry point, in a loop if `times` is not 1.
#[derive(Debug, Clone)]
pub struct Step {
    /// Number of passes.
    pub times: usize,
    /// Spaces before its calls.
    pub indent: &'static str,
    /// The calls of a pass.
    pub calls: Vec<Call>,
}

/// A statement of the entry point.
#[derive(Debug, Clone)]
pub struct Call {
    /// Lines of the comment above it.
    pub doc: Vec<String>,
    /// The statement.
    pub statement: String,
}

/// `NAME.c`.
#[derive(Debug, Template)]
#[template(path = "c/source.c.txt", escape = "none")]
pub struct Source {
    /// Comment lines that say where the file comes from.
    pub provenance: Vec<String>,
    /// Prefix of symbols.
    pub name: String,
    /// Prefix of macros.
    pub upper: String,
    /// `const `, or nothing where start-up code copies constants to RAM.
    pub constant: &'static str,
    /// Constants that the code refers to; their values are in the weights file.
    pub arrays: Vec<Array>,
    /// Small functions that the layers use.
    pub helpers: Vec<Helper>,
    /// Lines in front of the headers.
    pub prologues: Vec<&'static str>,
    /// Headers with the intrinsics that the layers call.
    pub headers: Vec<&'static str>,
    /// The constraint of inline assembly for vector registers, if there are vectors.
    pub register: Option<&'static str>,
    /// Conditions of the preprocessor under which assembly and vector instructions are understood.
    pub requirements: Vec<&'static str>,
    /// Functions of assembly.
    pub kernels: Vec<Kernel>,
    /// One function for each layer that is computed by C.
    pub functions: Vec<Function>,
    /// Steps for processors with vector instructions, the best first.
    pub levels: Vec<Level>,
    /// The entry point without opening brace.
    pub prototype: String,
    /// Statements of the entry point.
    pub steps: Vec<Step>,
    /// Whether a static arena is needed.
    pub static_arena: bool,
    /// Parameters of the entry point that no call needs.
    pub unused_parameters: Vec<String>,
    /// What is kept between inferences.
    pub states: Vec<State>,
    /// The entry point that keeps it, without semicolon.
    pub step: String,
    /// Arguments of the entry point that it calls.
    pub step_arguments: String,
}

/// `CMakeLists.txt`.
#[derive(Debug, Template)]
#[template(path = "c/CMakeLists.txt", escape = "none")]
pub struct CMakeLists {
    /// Who made the file.
    pub head: String,
}
