//! Which ONNX operators there are, and what ptqc does with them. `ptqc ops` prints this table.

use crate::diag;
use crate::ops::import::NodeImport;
use crate::ops::{add, affine, arg_max, average_pool, concat, conv, linear, max_pool, mean, mul, pad, reshape, slice, softmax, transpose, unary};

/// What happens to an operator.
#[derive(Clone, Copy)]
pub enum Support {
    /// Becomes an operator of the float graph.
    Lowered(fn(&mut NodeImport) -> diag::Result<()>),
    /// Passes its first input on; nothing is left of it in the emitted code.
    PassThrough,
    /// Only where all its inputs are known at compile time: it is computed then.
    Folded,
}

/// One row for each ONNX operator.
#[derive(Clone, Copy)]
pub struct Row {
    /// The operator, in the default domain.
    pub op_type: &'static str,
    /// What happens to it.
    pub support: Support,
    /// What it becomes, in a few words.
    pub summary: &'static str,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.op_type, self.summary)
    }
}

/// All operators that ptqc accepts, sorted by name.
pub const REGISTRY: &[Row] = &[
    lowered("Add", add::import_add, "sum with one rounding; a constant folds into its producer where it can"),
    lowered("ArgMax", arg_max::import, "comparison of integers; the result is int32"),
    lowered("AveragePool", average_pool::import, "sum and one requantization for each number of taps"),
    lowered("BatchNormalization", affine::import_batch_normalization, "folds into a neighbour, or a factor and addend for each channel"),
    pass_through("Cast", "type changes have no effect on quantized values"),
    lowered("Clip", unary::import_clip, "clamp of its producer, or a table"),
    lowered("Concat", concat::import, "copies; operands are requantized in their producers where possible"),
    folded("Constant"),
    folded("ConstantOfShape"),
    lowered("Conv", conv::import, "any number of spatial axes, groups, strides, dilations, padding"),
    lowered("Div", mul::import_div, "by a constant"),
    pass_through("Dropout", "does nothing at inference"),
    folded("Equal"),
    folded("Expand"),
    lowered("Flatten", reshape::import, "no code, or one copy if the layout changes"),
    folded("Floor"),
    lowered("Gather", slice::import_gather, "with constant indices"),
    lowered("Gemm", linear::import_gemm, "product with constant weights"),
    lowered("GlobalAveragePool", mean::import_global, "sum and one requantization"),
    lowered("GlobalMaxPool", max_pool::import_global, "comparison of integers"),
    folded("Greater"),
    lowered("HardSigmoid", unary::import_hard_sigmoid, "table"),
    lowered("HardSwish", unary::import_hard_swish, "table"),
    pass_through("Identity", "does nothing"),
    lowered("LeakyRelu", unary::import_leaky_relu, "table"),
    folded("Less"),
    lowered("MatMul", linear::import_matmul, "with one constant factor"),
    lowered("MaxPool", max_pool::import, "comparison of integers"),
    lowered("Mul", mul::import_mul, "product and one requantization; a constant folds into its producer where it can"),
    folded("Neg"),
    folded("Not"),
    lowered("Pad", pad::import, "folds into a convolution or pooling, or copies; all modes"),
    folded("Range"),
    lowered("ReduceMean", mean::import_reduce_mean, "sum and one requantization"),
    folded("ReduceProd"),
    lowered("Relu", unary::import_relu, "clamp of its producer, or a table"),
    lowered("Reshape", reshape::import, "no code, or one copy if the layout changes"),
    folded("Shape"),
    lowered("Sigmoid", unary::import_sigmoid, "table"),
    folded("Size"),
    lowered("Slice", slice::import_slice, "copy"),
    lowered("Softmax", softmax::import, "table of exponentials, one integer division for each row"),
    lowered("Split", slice::import_split, "copies"),
    folded("Sqrt"),
    lowered("Squeeze", reshape::import, "no code"),
    lowered("Sub", add::import_sub, "difference with one rounding; a constant folds into its producer where it can"),
    lowered("Tanh", unary::import_tanh, "table"),
    lowered("Transpose", transpose::import, "no code where the layout can be chosen, else one copy"),
    lowered("Unsqueeze", reshape::import, "no code"),
    folded("Where"),
];

/// Operators of ONNX that exist and that ptqc does not lower: known names get a better message than unknown ones.
pub const KNOWN_UNSUPPORTED: &[&str] = &[
    "Abs", "Acos", "Acosh", "And", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention", "Bernoulli", "BitCast", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BlackmanWindow", "CastLike", "CausalConvWithState", "Ceil",
    "Celu", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "ConvTranspose", "Cos", "Cosh",
    "CumProd", "CumSum", "DFT", "DeformConv", "DepthToSpace", "DequantizeLinear", "Det", "DynamicQuantizeLinear", "Einsum",
    "Elu", "Erf", "Exp", "EyeLike", "GRU", "GatherElements", "GatherND", "Gelu", "GlobalLpPool", "GreaterOrEqual", "GridSample",
    "GroupNormalization", "HammingWindow", "HannWindow", "Hardmax", "If", "ImageDecoder", "InstanceNormalization", "IsInf",
    "IsNaN", "LRN", "LSTM", "LayerNormalization", "LessOrEqual", "LinearAttention", "Log", "LogSoftmax", "Loop",
    "LpNormalization", "LpPool", "MatMulInteger", "Max", "MaxRoiPool", "MaxUnpool", "Mean", "MeanVarianceNormalization",
    "MelWeightMatrix", "Min", "Mish", "Mod", "Multinomial", "NegativeLogLikelihoodLoss", "NonMaxSuppression", "NonZero",
    "OneHot", "Optional", "OptionalGetElement", "OptionalHasElement", "Or", "PRelu", "Pow", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "ReduceSum",
    "ReduceSumSquare", "RegexFullMatch", "Resize", "ReverseSequence", "RoiAlign", "RotaryEmbedding", "Round", "STFT", "Scan",
    "Scatter", "ScatterElements", "ScatterND", "Selu", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SequenceMap", "Shrink", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "SoftmaxCrossEntropyLoss", "SpaceToDepth", "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "Sum",
    "SwiGLU", "Swish", "Tan", "TensorScatter", "TfIdfVectorizer", "ThresholdedRelu", "Tile", "TopK", "Trilu", "Unique",
    "Upsample", "Xor",
];

/// The row of an operator of the default domain.
pub fn find(op_type: &str) -> Option<&'static Row> {
    REGISTRY.iter().find(|row| row.op_type == op_type)
}

const fn lowered(op_type: &'static str, import: fn(&mut NodeImport) -> diag::Result<()>, summary: &'static str) -> Row {
    Row { op_type, support: Support::Lowered(import), summary }
}

const fn pass_through(op_type: &'static str, summary: &'static str) -> Row {
    Row { op_type, support: Support::PassThrough, summary }
}

const fn folded(op_type: &'static str) -> Row {
    Row { op_type, support: Support::Folded, summary: "computed at compile time; its inputs have to be constants" }
}
