//! Which ONNX operators there are, and what ptqc does with them. `ptqc ops` prints this table.

use crate::diag;
use crate::ops::import::NodeImport;
use crate::ops::reduce::Reduction;
use crate::ops::unary::{Plain, Relation};
use crate::ops::{
    add, affine, arg_max, average_pool, compare, concat, conv, conv_transpose, depth_to_space, div, extreme, gather,
    linear, log_softmax, lrn, max_pool, mean, mul, normalize, one_hot, pad, pick, prelu, recurrent, reduce, requantize,
    resample, reshape, resize, select, slice, softmax, sum, top_k, transpose, triangle, unary,
};

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

/// Operator sets whose changes the importers know.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

impl Row {
    /// The operator sets, of those that are known, that have the operator. Source: ONNX, Operators.md.
    pub fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        let first = match self.op_type {
            "Expand" => 8,
            "Acosh"
            | "Asinh"
            | "Atanh"
            | "ConstantOfShape"
            | "Cosh"
            | "Erf"
            | "MeanVarianceNormalization"
            | "OneHot"
            | "Shrink"
            | "Sign"
            | "Sinh"
            | "Where" => 9,
            "DequantizeLinear" | "QuantizeLinear" | "Resize" | "ThresholdedRelu" => 10,
            "CumSum" | "GatherElements" | "GatherND" | "Range" | "Round" => 11,
            "Celu" | "GreaterOrEqual" | "LessOrEqual" => 12,
            "HardSwish" | "Trilu" => 14,
            "LayerNormalization" => 17,
            "GroupNormalization" | "Mish" => 18,
            "Gelu" => 20,
            "RMSNormalization" => 23,
            "Swish" => 24,
            _ => *OPSETS.start(),
        };
        first..=*OPSETS.end()
    }
}

/// Operators that compute in 8 bits whatever is asked for; where their operands have more, conversions stand around them.
const NARROW: &[&str] = &[
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "Less",
    "LessOrEqual",
    "LogSoftmax",
    "MeanVarianceNormalization",
    "OneHot",
    "PRelu",
    "RMSNormalization",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMin",
    "ReduceSumSquare",
    "Resize",
    "SimplifiedLayerNormalization",
    "Tile",
    "Xor",
];

impl Row {
    /// Types of activations, and of weights where it has some.
    pub fn precisions(&self) -> &'static str {
        match (self.support, self.op_type) {
            (Support::Folded | Support::PassThrough, _) => "any",
            (_, "Conv" | "ConvTranspose") => "int8, int16; weights int8, int4",
            (_, "Gemm" | "MatMul") => "int8, int16; weights int8, int4; of two tensors int8",
            (_, "GRU" | "LSTM" | "RNN") => "int8, states int16; weights int8",
            (_, "QuantizeLinear") => "int8, uint8",
            (_, "DequantizeLinear") => "int8, uint8; weights also int4, uint4",
            (_, op_type) if NARROW.contains(&op_type) => "int8",
            _ => "int8, int16",
        }
    }

    /// What has to be so, in a few words; empty if everything that ONNX allows is supported.
    pub fn restrictions(&self) -> &'static str {
        match (self.support, self.op_type) {
            (Support::Folded, _) => "constant inputs",
            (_, "Conv" | "ConvTranspose") => "constant weights",
            (_, "GRU" | "LSTM" | "RNN") => "constant weights and lengths",
            (_, "BatchNormalization" | "Dropout") => "inference only",
            (
                _,
                "GroupNormalization" | "InstanceNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization",
            ) => "constant scale and bias",
            (_, "LayerNormalization") => "constant scale and bias; no second output",
            (_, "Clip") => "constant bounds",
            (_, "CumSum") => "constant axis, up to 1024 elements",
            (_, "Expand" | "Reshape") => "constant shape",
            (_, "GatherElements" | "GatherND") => "constant indices",
            (_, "MaxPool") => "no positions",
            (_, "OneHot") => "constant depth and values",
            (_, "PRelu") => "constant slopes",
            (_, "Pad") => "constant amounts",
            (_, "Pow") => "exponent or base is one constant number",
            (_, "Resize") => "constant scales or sizes",
            (_, "Slice" | "Split") => "constant bounds",
            (_, "Tile") => "constant repeats",
            (_, "TopK") => "constant count",
            (_, "Trilu") => "constant diagonal",
            (_, "QuantizeLinear") => "constant scale, one for each tensor",
            (_, "DequantizeLinear") => "constant scales; several for weights only",
            _ => "",
        }
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.op_type, self.summary)
    }
}

/// What becomes of a comparison.
const COMPARISON: &str = "exact comparison; truth values are 0 and 1; a table with one constant number";

/// All operators that ptqc accepts, sorted by name.
pub const REGISTRY: &[Row] = &[
    lowered("Abs", |cx| unary::import_plain(cx, Plain::Abs), "table"),
    lowered("Acos", |cx| unary::import_plain(cx, Plain::Acos), "table"),
    lowered("Acosh", |cx| unary::import_plain(cx, Plain::Acosh), "table"),
    lowered("Add", add::import_add, "sum with one rounding; a constant folds into its producer where it can"),
    lowered("And", extreme::import_and, "comparison of integers; truth values are 0 and 1"),
    lowered("ArgMax", arg_max::import_max, "comparison of integers; the result is int32"),
    lowered("ArgMin", arg_max::import_min, "comparison of integers; the result is int32"),
    lowered("Asin", |cx| unary::import_plain(cx, Plain::Asin), "table"),
    lowered("Asinh", |cx| unary::import_plain(cx, Plain::Asinh), "table"),
    lowered("Atan", |cx| unary::import_plain(cx, Plain::Atan), "table"),
    lowered("Atanh", |cx| unary::import_plain(cx, Plain::Atanh), "table"),
    lowered("AveragePool", average_pool::import, "sum and one requantization for each number of taps"),
    lowered(
        "BatchNormalization",
        affine::import_batch_normalization,
        "folds into a neighbour, or a factor and addend for each channel",
    ),
    lowered("Cast", unary::import_cast, "no code, or a table where fractions are cut off"),
    lowered("Ceil", |cx| unary::import_plain(cx, Plain::Ceil), "table"),
    lowered("Celu", unary::import_celu, "table"),
    lowered("Clip", unary::import_clip, "clamp of its producer, or a table"),
    lowered("Concat", concat::import, "copies; operands are requantized in their producers where possible"),
    folded("Constant"),
    folded("ConstantOfShape"),
    lowered("Conv", conv::import, "any number of spatial axes, groups, strides, dilations, padding"),
    lowered("ConvTranspose", conv_transpose::import, "a convolution for each phase of the stride; all attributes"),
    lowered("Cos", |cx| unary::import_plain(cx, Plain::Cos), "table"),
    lowered("Cosh", |cx| unary::import_plain(cx, Plain::Cosh), "table"),
    lowered("CumSum", triangle::import_cum_sum, "product with a triangle of ones, up to 1024 elements"),
    lowered(
        "DepthToSpace",
        depth_to_space::import_depth_to_space,
        "no code where the layout can be chosen, else one copy",
    ),
    lowered(
        "DequantizeLinear",
        requantize::import_dequantize,
        "no code: weights keep their integers, activations their scale and zero point",
    ),
    lowered(
        "Div",
        div::import,
        "table of reciprocals and one product; a constant divisor folds into its producer where it can",
    ),
    lowered("Dropout", unary::import_dropout, "does nothing at inference"),
    lowered("Elu", unary::import_elu, "table"),
    lowered("Equal", |cx| compare::import(cx, Relation::Equal), COMPARISON),
    lowered("Erf", |cx| unary::import_plain(cx, Plain::Erf), "table"),
    lowered("Exp", |cx| unary::import_plain(cx, Plain::Exp), "table"),
    lowered("Expand", resample::import_expand, "copy; constant shape"),
    lowered("Flatten", reshape::import, "no code, or one copy if the layout changes"),
    lowered("Floor", |cx| unary::import_plain(cx, Plain::Floor), "table"),
    lowered("GRU", recurrent::import, "loop over the steps; 16-bit states, activations from tables"),
    lowered("Gather", gather::import, "copies; indices are constants, integers, or quantized numbers"),
    lowered("GatherElements", pick::import_gather_elements, "copies, with constant indices"),
    lowered("GatherND", pick::import_gather_nd, "copies, with constant indices"),
    lowered("Gelu", unary::import_gelu, "table; also written out"),
    lowered("Gemm", linear::import_gemm, "product with constant weights, or of two tensors"),
    lowered("GlobalAveragePool", mean::import_global, "sum and one requantization"),
    lowered("GlobalMaxPool", max_pool::import_global, "comparison of integers"),
    lowered("Greater", |cx| compare::import(cx, Relation::Greater), COMPARISON),
    lowered("GreaterOrEqual", |cx| compare::import(cx, Relation::GreaterOrEqual), COMPARISON),
    lowered("GroupNormalization", normalize::import_group, "exact sums, reciprocal root in integers"),
    lowered("HardSigmoid", unary::import_hard_sigmoid, "table"),
    lowered("HardSwish", unary::import_hard_swish, "table"),
    pass_through("Identity", "does nothing"),
    lowered("InstanceNormalization", normalize::import_instance, "exact sums, reciprocal root in integers"),
    lowered("LRN", lrn::import, "sum of squares, a search for its factor, one product"),
    lowered("LSTM", recurrent::import, "loop over the steps; 16-bit states, activations from tables"),
    lowered("LayerNormalization", normalize::import_layer, "exact sums, reciprocal root in integers; also written out"),
    lowered("LeakyRelu", unary::import_leaky_relu, "table"),
    lowered("Less", |cx| compare::import(cx, Relation::Less), COMPARISON),
    lowered("LessOrEqual", |cx| compare::import(cx, Relation::LessOrEqual), COMPARISON),
    lowered("Log", |cx| unary::import_plain(cx, Plain::Log), "table"),
    lowered("LogSoftmax", log_softmax::import, "table of exponentials, and a search for the logarithm of each sum"),
    lowered("MatMul", linear::import_matmul, "with a constant factor, or of two tensors"),
    lowered("Max", extreme::import_max, "comparison of integers, with broadcasting; a constant number becomes a clamp"),
    lowered("MaxPool", max_pool::import, "comparison of integers"),
    lowered("Mean", sum::import_mean, "sum with one rounding, with broadcasting"),
    lowered("MeanVarianceNormalization", normalize::import_mean_variance, "exact sums, reciprocal root in integers"),
    lowered("Min", extreme::import_min, "comparison of integers, with broadcasting; a constant number becomes a clamp"),
    lowered("Mish", |cx| unary::import_plain(cx, Plain::Mish), "table"),
    lowered("Mul", mul::import_mul, "product and one requantization; a constant folds into its producer where it can"),
    lowered("Neg", unary::import_neg, "folds into its producer, or a table"),
    lowered("Not", unary::import_not, "table; truth values are 0 and 1"),
    lowered("OneHot", one_hot::import, "comparison of positions; constant depth and values"),
    lowered("Or", extreme::import_or, "comparison of integers; truth values are 0 and 1"),
    lowered("PRelu", prelu::import, "two products and one rounding; constant slopes"),
    lowered("Pad", pad::import, "folds into a convolution or pooling, or copies; all modes"),
    lowered("Pow", unary::import_pow, "table; exponent or base is one constant number"),
    lowered(
        "QuantizeLinear",
        requantize::import_quantize,
        "its producer computes with this scale and zero point, or a table",
    ),
    lowered("RMSNormalization", normalize::import_rms, "exact sum, reciprocal root in integers"),
    lowered("RNN", recurrent::import, "loop over the steps; 16-bit states, activations from tables"),
    folded("Range"),
    lowered("Reciprocal", |cx| unary::import_plain(cx, Plain::Reciprocal), "table"),
    lowered(
        "ReduceL1",
        |cx| reduce::import(cx, Reduction::L1),
        "exact sum, and a search among the thresholds of the result",
    ),
    lowered(
        "ReduceL2",
        |cx| reduce::import(cx, Reduction::L2),
        "exact sum, and a search among the thresholds of the result",
    ),
    lowered(
        "ReduceLogSum",
        |cx| reduce::import(cx, Reduction::LogSum),
        "exact sum, and a search among the thresholds of the result",
    ),
    lowered(
        "ReduceLogSumExp",
        log_softmax::import_log_sum_exp,
        "table of exponentials, and a search for the logarithm of each sum",
    ),
    lowered("ReduceMax", |cx| reduce::import(cx, Reduction::Max), "comparison of integers"),
    lowered("ReduceMean", mean::import_reduce_mean, "sum and one requantization"),
    lowered("ReduceMin", |cx| reduce::import(cx, Reduction::Min), "comparison of integers"),
    folded("ReduceProd"),
    lowered("ReduceSum", mean::import_reduce_sum, "sum and one requantization"),
    lowered(
        "ReduceSumSquare",
        |cx| reduce::import(cx, Reduction::SumSquare),
        "exact sum, and a search among the thresholds of the result",
    ),
    lowered("Relu", unary::import_relu, "clamp of its producer, or a table"),
    lowered("Reshape", reshape::import, "no code, or one copy if the layout changes"),
    lowered("Resize", resize::import, "tables of indices and weights; all modes and attributes"),
    lowered("Round", |cx| unary::import_plain(cx, Plain::Round), "table"),
    lowered("Selu", unary::import_selu, "table"),
    folded("Shape"),
    lowered("Shrink", unary::import_shrink, "table"),
    lowered("Sigmoid", unary::import_sigmoid, "table"),
    lowered("Sign", |cx| unary::import_plain(cx, Plain::Sign), "table"),
    lowered("SimplifiedLayerNormalization", normalize::import_rms, "the same as RMSNormalization"),
    lowered("Sin", |cx| unary::import_plain(cx, Plain::Sin), "table"),
    lowered("Sinh", |cx| unary::import_plain(cx, Plain::Sinh), "table"),
    folded("Size"),
    lowered("Slice", slice::import_slice, "copy"),
    lowered("Softmax", softmax::import, "table of exponentials, one integer division for each row"),
    lowered("Softplus", |cx| unary::import_plain(cx, Plain::Softplus), "table"),
    lowered("Softsign", |cx| unary::import_plain(cx, Plain::Softsign), "table"),
    lowered(
        "SpaceToDepth",
        depth_to_space::import_space_to_depth,
        "no code where the layout can be chosen, else one copy",
    ),
    lowered("Split", slice::import_split, "copies"),
    lowered("Sqrt", |cx| unary::import_plain(cx, Plain::Sqrt), "table"),
    lowered("Squeeze", reshape::import, "no code"),
    lowered("Sub", add::import_sub, "difference with one rounding; a constant folds into its producer where it can"),
    lowered("Sum", sum::import_sum, "sum with one rounding, with broadcasting"),
    lowered("Swish", unary::import_swish, "table"),
    lowered("Tan", |cx| unary::import_plain(cx, Plain::Tan), "table"),
    lowered("Tanh", unary::import_tanh, "table"),
    lowered("ThresholdedRelu", unary::import_thresholded_relu, "table"),
    lowered("Tile", resample::import_tile, "copy; constant repeats"),
    lowered("TopK", top_k::import, "comparison of integers; positions are int32"),
    lowered("Transpose", transpose::import, "no code where the layout can be chosen, else one copy"),
    lowered("Trilu", triangle::import_trilu, "choice between the element and 0; constant diagonal"),
    lowered("Unsqueeze", reshape::import, "no code"),
    lowered("Where", select::import, "choice of integers, with broadcasting; a mask folds into the Softmax behind it"),
    lowered("Xor", compare::import_xor, "exact comparison; truth values are 0 and 1"),
];

/// Operators of ONNX that exist and that ptqc does not lower: known names get a better message than unknown ones.
pub const KNOWN_UNSUPPORTED: &[&str] = &[
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "CastLike",
    "CausalConvWithState",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "ConcatFromSequence",
    "CumProd",
    "DFT",
    "DeformConv",
    "Det",
    "Einsum",
    "EyeLike",
    "GridSample",
    "HammingWindow",
    "HannWindow",
    "ImageDecoder",
    "IsInf",
    "IsNaN",
    "LinearAttention",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Mod",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RegexFullMatch",
    "ReverseSequence",
    "RoiAlign",
    "RotaryEmbedding",
    "STFT",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "SwiGLU",
    "TensorScatter",
    "TfIdfVectorizer",
    "Unique",
];

/// What to do where an operator of [`KNOWN_UNSUPPORTED`] stands.
pub fn workaround(op_type: &str) -> &'static str {
    match op_type {
        "If" | "Loop" | "Scan" => {
            "export the model with fixed control flow: by tracing, or with constant conditions and trip counts folded (onnxsim does that)"
        }
        "Bernoulli" | "Multinomial" | "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" => {
            "draw random numbers in the application, and make them an input of the model"
        }
        "MaxRoiPool" | "NonMaxSuppression" | "RoiAlign" | "TensorScatter" => {
            "let the model end before it, and compute it in the application"
        }
        "Compress" | "NonZero" | "Unique" => {
            "the size of its result depends on the input: let the model end before it, and compute it in the application"
        }
        "BlackmanWindow" | "DFT" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" | "STFT" => {
            "compute spectra in the application, and make them the input of the model"
        }
        "ImageDecoder" | "RegexFullMatch" | "StringConcat" | "StringNormalizer" | "StringSplit" | "TfIdfVectorizer" => {
            "prepare the input in the application, and make numbers the input of the model"
        }
        "GlobalLpPool" | "LpPool" => "write it as Abs, Pow, AveragePool with count_include_pad, Mul and Pow",
        "Attention" => "write it out as MatMul, Add, Softmax and MatMul",
        "Mod" => "write it as a - b * Floor(a / b)",
        "ReduceProd" => "multiply the parts with Mul",
        "ReverseSequence" => "write it as Slice with a negative step",
        "Scatter" | "ScatterElements" | "ScatterND" => "write it as Where with a constant mask, or Concat of parts",
        "Einsum" => "write it as Transpose, Reshape and MatMul",
        "IsInf" | "IsNaN" => "quantized values are always finite: replace it by a constant false",
        "MaxUnpool" => "write it as Resize or ConvTranspose",
        _ => "`ptqc ops` lists what is supported; replace the operator in the model before the export",
    }
}

/// The attributes of all operators of the default domain, sorted. Anything else is an extension whose meaning ptqc cannot
/// know, and leaving it out would compile another model than the one that was given.
pub const ATTRIBUTES: &[&str] = &[
    "activation",
    "activation_alpha",
    "activation_beta",
    "activations",
    "align_corners",
    "allowzero",
    "alpha",
    "antialias",
    "approximate",
    "auto_pad",
    "axes",
    "axis",
    "batch_axis",
    "batch_dims",
    "beta",
    "bias",
    "block_size",
    "blocksize",
    "body",
    "broadcast",
    "case_change_action",
    "ceil_mode",
    "center_point_box",
    "chunk_size",
    "clip",
    "consumed_inputs",
    "coordinate_transformation_mode",
    "count_include_pad",
    "cubic_coeff_a",
    "delimiter",
    "detect_negative",
    "detect_positive",
    "dilations",
    "direction",
    "directions",
    "dtype",
    "else_branch",
    "end",
    "ends",
    "epsilon",
    "equation",
    "exclude_outside",
    "exclusive",
    "extrapolation_value",
    "fmod",
    "gamma",
    "group",
    "height_scale",
    "hidden_size",
    "high",
    "ignore_index",
    "input_forget",
    "interleaved",
    "inverse",
    "is_case_sensitive",
    "is_causal",
    "is_test",
    "k",
    "keep_aspect_ratio_policy",
    "keepdims",
    "kernel_shape",
    "kv_num_heads",
    "lambd",
    "largest",
    "layout",
    "left_window_size",
    "linear_before_reset",
    "locale",
    "low",
    "max",
    "max_gram_length",
    "max_skip_count",
    "maxsplit",
    "mean",
    "min",
    "min_gram_length",
    "mode",
    "momentum",
    "nearest_mode",
    "new_axis",
    "ngram_counts",
    "ngram_indexes",
    "noop_with_empty_axes",
    "num_groups",
    "num_heads",
    "num_outputs",
    "num_scan_inputs",
    "offset_group",
    "onesided",
    "output_datatype",
    "output_dtype",
    "output_height",
    "output_padding",
    "output_sequence",
    "output_shape",
    "output_width",
    "p",
    "padding_mode",
    "paddings",
    "pads",
    "pattern",
    "periodic",
    "perm",
    "pixel_format",
    "pool_int64s",
    "pool_strings",
    "pooled_shape",
    "precision",
    "q_num_heads",
    "qk_matmul_output_mode",
    "ratio",
    "reduction",
    "reverse",
    "right_window_size",
    "rotary_embedding_dim",
    "round_mode",
    "sample_size",
    "sampling_ratio",
    "saturate",
    "scale",
    "scales",
    "scan_input_axes",
    "scan_input_directions",
    "scan_output_axes",
    "scan_output_directions",
    "seed",
    "select_last_index",
    "shape",
    "size",
    "softcap",
    "softmax_precision",
    "sorted",
    "sparse_value",
    "spatial",
    "spatial_scale",
    "split",
    "start",
    "starts",
    "stash_type",
    "stopwords",
    "storage_order",
    "strides",
    "then_branch",
    "time_axis",
    "to",
    "training_mode",
    "transA",
    "transB",
    "type",
    "update_rule",
    "upper",
    "value",
    "value_float",
    "value_floats",
    "value_int",
    "value_ints",
    "value_string",
    "value_strings",
    "weights",
    "width_scale",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_or_printed_is_sorted() {
        assert!(ATTRIBUTES.is_sorted());
        assert!(REGISTRY.is_sorted_by_key(|row| row.op_type));
        assert!(NARROW.is_sorted() && NARROW.iter().all(|op_type| find(op_type).is_some()));
    }
}
