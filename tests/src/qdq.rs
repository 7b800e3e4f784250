//! A quantized graph as an ONNX model of separate layers, each with its own int8 inputs:
//! DequantizeLinear, the float operator, QuantizeLinear. Another runtime then says what every layer should return.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use ptqc::evaluate::evaluate_all;
use ptqc::front::pb;
use ptqc::ir::{Checked, DType, Float, Graph, NodeId, Params, Quant, QuantType, RealClamp, Window};
use ptqc::ops::conv::QConv;
use ptqc::ops::linear::QLinear;
use ptqc::ops::normalize::Normalize;
use ptqc::ops::pad::{PadMode, QPad};
use ptqc::ops::slice::QSlice;
use ptqc::ops::unary::{Join, Plain, UnaryFn};
use ptqc::ops::weighted::Weighted;
use ptqc::ops::{FloatOp, QuantOp, affine::QAffine};

use crate::onnx::{Attr, Onnx};
use crate::toolchain;

/// Runs `model.onnx` of each folder given as argument over the samples in its `inputs.bin`.
const SCRIPT: &str = r#"
import os, sys
import numpy as np, onnx, onnxruntime
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
options.log_severity_level = 3
for folder in sys.argv[1:]:
    path = os.path.join(folder, "model.onnx")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        data = open(os.path.join(folder, "inputs.bin"), "rb").read()
        types = {"tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        at, out = 0, b""
        while at < len(data):
            feeds = {}
            for value in session.get_inputs():
                count = int(np.prod(value.shape))
                part = np.frombuffer(data, types[value.type], count, at)
                at += part.nbytes
                feeds[value.name] = part.reshape(value.shape)
            for result in session.run(None, feeds):
                out += result.astype(np.int32 if result.dtype.kind in "iu" else result.dtype).tobytes()
        open(os.path.join(folder, "outputs.bin"), "wb").write(out)
    except Exception as error:
        open(os.path.join(folder, "error.txt"), "w").write(str(error))
"#;

/// A model for the other runtime with the bytes of its samples.
#[derive(Debug, Default)]
pub struct Job {
    /// For messages.
    pub name: String,
    /// The model.
    pub model: Vec<u8>,
    /// For each sample, all inputs.
    pub inputs: Vec<u8>,
}

/// Runs all jobs in one Python process; the results are the bytes of all outputs, integers as int32, or why the other
/// runtime refuses the model.
pub fn run(jobs: &[Job], python: &Path) -> Result<Vec<Result<Vec<u8>, String>>> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]);
    for (index, job) in jobs.iter().enumerate() {
        let folder = folder.path().join(format!("{index}_{}", job.name));
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("model.onnx"), &job.model)?;
        std::fs::write(folder.join("inputs.bin"), &job.inputs)?;
        command.arg(folder.file_name().context("the folder has a name")?);
    }
    toolchain::run(&mut command, folder.path())?;
    let read = |(index, job): (usize, &Job)| {
        let folder = folder.path().join(format!("{index}_{}", job.name));
        let outputs = std::fs::read(folder.join("outputs.bin"));
        outputs.map_err(|_| std::fs::read_to_string(folder.join("error.txt")).unwrap_or_default())
    };
    Ok(jobs.iter().enumerate().map(read).collect())
}

/// How a layer compares with the other runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreement {
    /// Elements compared.
    pub elements: usize,
    /// Elements that are equal.
    pub equal: usize,
    /// Largest difference, in steps.
    pub worst: i64,
}

impl Agreement {
    /// Of two integers.
    pub fn add(&mut self, ours: i32, theirs: i32) {
        let difference = (i64::from(ours) - i64::from(theirs)).abs();
        self.elements += 1;
        self.equal += usize::from(difference == 0);
        self.worst = self.worst.max(difference);
    }

    /// Of both together.
    pub fn merge(self, other: Agreement) -> Agreement {
        Agreement {
            elements: self.elements + other.elements,
            equal: self.equal + other.equal,
            worst: self.worst.max(other.worst),
        }
    }

    /// Share of equal elements.
    pub fn share(self) -> f64 {
        if self.elements == 0 { 1.0 } else { self.equal as f64 / self.elements as f64 }
    }
}

/// The layers of a quantized graph, and the samples they are run on.
#[derive(Debug)]
pub struct Layers<'a> {
    graph: &'a Checked<Graph<Quant>>,
    ids: Vec<NodeId>,
    /// Which of them the other runtime computes, too.
    compared: Vec<bool>,
    values: Vec<BTreeMap<NodeId, Vec<i32>>>,
    /// What another runtime gets.
    pub job: Job,
}

impl<'a> Layers<'a> {
    /// Exports all layers. `fused` is the float graph that `graph` was made from: it knows the functions behind tables.
    pub fn export(
        name: &str,
        graph: &'a Checked<Graph<Quant>>,
        fused: &Checked<Graph<Float>>,
        samples: &[Vec<Vec<i32>>],
    ) -> Result<Layers<'a>> {
        let functions: BTreeMap<&str, &FloatOp> =
            fused.topological().into_iter().map(|id| (fused.node(id).name.as_str(), &fused.node(id).op)).collect();
        // States inside of a layer have no QDQ form.
        let is_layer = |id: &NodeId| {
            !matches!(graph.node(*id).op, QuantOp::Input(_) | QuantOp::Constant(_) | QuantOp::Recurrent(_))
        };
        let ids: Vec<NodeId> = graph.topological().into_iter().filter(is_layer).collect();
        let mut exporter = Exporter { onnx: Onnx::new(21), fresh: 0 };
        let compared: Vec<bool> = ids.iter().map(|&id| is_compared(graph, id, &functions)).collect();
        let exported = || ids.iter().zip(&compared).enumerate().filter(|(_, (_, compared))| **compared);
        for (index, (&id, _)) in exported() {
            exporter.layer(index, graph, id, &functions).with_context(|| format!("layer `{}`", graph.node(id).name))?;
        }
        let values: Vec<_> = samples.iter().map(|sample| evaluate_all(graph, sample)).collect();
        let mut inputs = vec![];
        for values in &values {
            let operands = exported().flat_map(|(_, (&id, _))| graph.operands(id));
            inputs.extend(operands.flat_map(|operand| &values[&operand]).map(|&q| q as i8 as u8));
        }
        let job = Job { name: name.to_owned(), model: exporter.onnx.bytes(), inputs };
        Ok(Layers { graph, ids, compared, values, job })
    }

    /// Compares the other runtime's results with ours: name, kind and agreement of each layer.
    pub fn compare(&self, bytes: &[u8]) -> Result<Vec<(String, &'static str, Agreement)>> {
        let mut theirs = bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap_or_default()));
        let mut agreements = vec![Agreement::default(); self.ids.len()];
        for values in &self.values {
            let compared = self.ids.iter().enumerate().filter(|(index, _)| self.compared[*index]);
            for (index, id) in compared {
                for &ours in &values[id] {
                    agreements[index].add(ours, theirs.next().context("the other runtime returned too little")?);
                }
            }
        }
        ensure!(theirs.next().is_none(), "the other runtime returned too much");
        let node = |id: NodeId| (self.graph.node(id).name.clone(), self.graph.node(id).op.kind());
        Ok(self.ids.iter().zip(agreements).map(|(&id, agreement)| (node(id).0, node(id).1, agreement)).collect())
    }
}

/// Layers that move positions have nothing to dequantize. Some operators have no counterpart of one node; their cases are
/// compared as whole float models.
fn is_compared(graph: &Checked<Graph<Quant>>, id: NodeId, functions: &BTreeMap<&str, &FloatOp>) -> bool {
    let node = graph.node(id);
    let is_exported = match (&node.op, functions.get(node.name.as_str())) {
        (QuantOp::Table(_), Some(FloatOp::Unary(unary))) => unary.chain.iter().all(is_exported),
        (
            QuantOp::Conv(_)
            | QuantOp::Linear(_)
            | QuantOp::Affine(_)
            | QuantOp::Table(_)
            | QuantOp::Add(_)
            | QuantOp::Mul(_)
            | QuantOp::MaxPool(_)
            | QuantOp::AveragePool(_)
            | QuantOp::Mean(_)
            | QuantOp::Softmax(_)
            | QuantOp::ArgMax(_)
            | QuantOp::Concat(_)
            | QuantOp::Slice(_)
            | QuantOp::Pad(_)
            | QuantOp::Transpose(_)
            | QuantOp::Reshape(_),
            _,
        ) => true,
        _ => false,
    };
    is_exported && graph.operands(id).iter().all(|&operand| graph.node(operand).value.dtype == DType::I8)
}

/// Whether a function is an operator of the set that layers are exported with.
fn is_exported(function: &UnaryFn) -> bool {
    match function {
        UnaryFn::Plain(function) => !matches!(function, Plain::GeluTanh | Plain::Trunc),
        UnaryFn::Elu { width, .. } => *width == 1.0,
        UnaryFn::Gated(gate) => gate.iter().all(is_exported),
        UnaryFn::Compare { .. } => false,
        _ => true,
    }
}

struct Exporter {
    onnx: Onnx,
    fresh: usize,
}

impl Exporter {
    fn layer(
        &mut self,
        index: usize,
        graph: &Checked<Graph<Quant>>,
        id: NodeId,
        functions: &BTreeMap<&str, &FloatOp>,
    ) -> Result<()> {
        let node = graph.node(id);
        let mut operands = vec![];
        let mut types = vec![];
        for (port, operand) in graph.operands(id).into_iter().enumerate() {
            let ty = &graph.node(operand).value;
            operands.push(self.dequantized(&format!("layer{index}_x{port}"), ty)?);
            types.push(ty);
        }
        let y = self.operator(&node.op, &node.value, &operands, &types, functions.get(node.name.as_str()).copied())?;
        let output = match node.value.params() {
            Some(params) => self.quantized(&y, params),
            None => y,
        };
        // Without a type: the other runtime infers it.
        self.onnx.graph().output.push(pb::ValueInfoProto { name: output, ..Default::default() });
        Ok(())
    }

    fn operator(
        &mut self,
        op: &QuantOp,
        result: &QuantType,
        x: &[String],
        types: &[&QuantType],
        float: Option<&FloatOp>,
    ) -> Result<String> {
        let params = |ty: &QuantType| ty.params().context("a tensor of reals");
        Ok(match op {
            QuantOp::Conv(conv) => self.conv(conv, &x[0], types[0], params(result)?)?,
            QuantOp::Linear(linear) => self.linear(linear, &x[0], types[0], params(result)?)?,
            QuantOp::Affine(affine) => self.affine(affine, &x[0], types[0], result)?,
            QuantOp::Table(_) | QuantOp::Curve(_) | QuantOp::Rescale(_) => match float {
                Some(FloatOp::Unary(unary)) => self.chain(&unary.chain, x[0].clone()),
                // A requantization.
                _ => self.node("Identity", &[&x[0]], &[]),
            },
            QuantOp::Add(add) => {
                let sum = self.node(if add.sum.factors[1] < 0 { "Sub" } else { "Add" }, &[&x[0], &x[1]], &[]);
                self.clamped(sum, add.clamp, params(result)?)
            }
            QuantOp::Mul(mul) => {
                let product = self.node("Mul", &[&x[0], &x[1]], &[]);
                self.clamped(product, mul.clamp, params(result)?)
            }
            QuantOp::MatMul(product) => {
                let [a, b] = [params(types[0])?, params(types[1])?].map(|params| params.scale.get());
                let steps =
                    f64::from(product.multiplier.mantissa()) * 2f64.powi(product.multiplier.left_shift() as i32 - 31);
                let factor = self.weights(&[], &[(steps * params(result)?.scale.get() / (a * b)) as f32]);
                let sum = self.node("MatMul", &[&x[0], &x[1]], &[]);
                let product_scaled = self.node("Mul", &[&sum, &factor], &[]);
                self.clamped(product_scaled, product.clamp, params(result)?)
            }
            QuantOp::Normalize(norm) => match float {
                Some(FloatOp::Normalize(float)) => {
                    let y = self.normalize(float, &x[0]);
                    self.clamped(y, norm.clamp, params(result)?)
                }
                _ => bail!("a normalization that the float graph does not have"),
            },
            QuantOp::Recurrent(_) => bail!("states inside of a layer have no QDQ form"),
            QuantOp::MaxPool(pool) => self.node("MaxPool", &[&x[0]], &pool_attributes(&pool.window)),
            QuantOp::AveragePool(pool) => {
                let mut attributes = pool_attributes(&pool.window);
                attributes.push(("count_include_pad", i64::from(pool.include_pad).into()));
                let mean = self.node("AveragePool", &[&x[0]], &attributes);
                self.clamped(mean, pool.clamp, params(result)?)
            }
            QuantOp::Mean(mean) => {
                let axes = self.ints(&mean.axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
                let op = if mean.is_sum { "ReduceSum" } else { "ReduceMean" };
                let y = self.node(op, &[&x[0], &axes], &[("keepdims", i64::from(mean.keep_dims).into())]);
                self.clamped(y, mean.clamp, params(result)?)
            }
            QuantOp::Softmax(softmax) => {
                let scores = match &softmax.mask {
                    Some(mask) => {
                        let dims: Vec<i64> = mask.shape.dims().iter().map(|&size| size as i64).collect();
                        let addend: Vec<f32> = mask.keep.iter().map(|&keep| if keep { 0.0 } else { -1e9 }).collect();
                        let addend = self.weights(&dims, &addend);
                        self.node("Add", &[&x[0], &addend], &[])
                    }
                    None => x[0].clone(),
                };
                self.node("Softmax", &[&scores], &[("axis", (softmax.axis as i64).into())])
            }
            QuantOp::ArgMax(arg_max) => {
                let attributes = [
                    ("axis", (arg_max.axis as i64).into()),
                    ("keepdims", i64::from(arg_max.keep_dims).into()),
                    ("select_last_index", i64::from(arg_max.last).into()),
                ];
                self.node(op.kind(), &[&x[0]], &attributes)
            }
            QuantOp::Concat(concat) => {
                let operands: Vec<&str> = x.iter().map(String::as_str).collect();
                self.node("Concat", &operands, &[("axis", (concat.axis as i64).into())])
            }
            QuantOp::Slice(slice) => self.slice(slice, &x[0]),
            QuantOp::Pad(pad) => self.pad(pad, &x[0], params(result)?),
            QuantOp::Transpose(transpose) => {
                let order: Vec<i64> = transpose.order.iter().map(|&axis| axis as i64).collect();
                self.node("Transpose", &[&x[0]], &[("perm", order.into())])
            }
            QuantOp::Reshape(reshape) => {
                let shape = self.ints(&reshape.shape.dims().iter().map(|&size| size as i64).collect::<Vec<_>>());
                self.node("Reshape", &[&x[0], &shape], &[])
            }
            other => bail!("{} is not exported", other.kind()),
        })
    }

    fn conv(&mut self, conv: &QConv, x: &str, input: &QuantType, output: Params) -> Result<String> {
        let (weights, biases) = real_weights(&conv.weighted, input, output)?;
        let mut dims = vec![conv.weighted.channels.len() as i64, conv.group_inputs() as i64];
        dims.extend(conv.window.kernel.iter().map(|&size| size as i64));
        let (w, b) = (self.weights(&dims, &weights), self.weights(&[biases.len() as i64], &biases));
        let mut attributes = window_attributes(&conv.window);
        attributes.push(("group", (conv.groups as i64).into()));
        let y = self.node("Conv", &[x, &w, &b], &attributes);
        Ok(self.clamped(y, conv.weighted.clamp, output))
    }

    fn linear(&mut self, linear: &QLinear, x: &str, input: &QuantType, output: Params) -> Result<String> {
        let (weights, biases) = real_weights(&linear.weighted, input, output)?;
        let dims = [biases.len() as i64, linear.row_len() as i64];
        let (w, b) = (self.weights(&dims, &weights), self.weights(&dims[..1], &biases));
        let w = self.node("Transpose", &[&w], &[]);
        let y = self.node("MatMul", &[x, &w], &[]);
        let y = self.node("Add", &[&y, &b], &[]);
        Ok(self.clamped(y, linear.weighted.clamp, output))
    }

    /// The real map behind `(q * factor + offset) >> shift`.
    fn affine(&mut self, affine: &QAffine, x: &str, input: &QuantType, result: &QuantType) -> Result<String> {
        let (from, to) = (input.params().context("reals")?, result.params().context("reals")?);
        let one = f64::from(affine.precision.shift).exp2();
        let scale = |factor: i32| f64::from(factor) / one * to.scale.get() / from.scale.get();
        let shift = |factor: i32, offset: i64| {
            let zero = f64::from(factor) * f64::from(from.zero_point) + offset as f64 - (one / 2.0).floor();
            to.scale.get() * (zero / one - f64::from(to.zero_point))
        };
        let scales: Vec<f32> = affine.channels.iter().map(|c| scale(c.factors[0]) as f32).collect();
        let shifts: Vec<f32> = affine.channels.iter().map(|c| shift(c.factors[0], c.offset) as f32).collect();
        let mut dims = vec![1; input.shape.rank()];
        dims[affine.axis] = scales.len() as i64;
        let (scales, shifts) = (self.weights(&dims, &scales), self.weights(&dims, &shifts));
        let y = self.node("Mul", &[x, &scales], &[]);
        let y = self.node("Add", &[&y, &shifts], &[]);
        Ok(self.clamped(y, affine.clamp, to))
    }

    /// A normalization, written out.
    fn normalize(&mut self, norm: &Normalize, x: &str) -> String {
        let axes = self.ints(&norm.axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
        let distance = match norm.center {
            true => {
                let mean = self.node("ReduceMean", &[x, &axes], &[]);
                self.node("Sub", &[x, &mean], &[])
            }
            false => x.to_owned(),
        };
        let square = self.node("Mul", &[&distance, &distance], &[]);
        let variance = self.node("ReduceMean", &[&square, &axes], &[]);
        let epsilon = self.weights(&[], &[norm.epsilon]);
        let variance = self.node("Add", &[&variance, &epsilon], &[]);
        let deviation = self.node("Sqrt", &[&variance], &[]);
        let y = self.node("Div", &[&distance, &deviation], &[]);
        let dims: Vec<i64> = norm.gamma.shape.dims().iter().map(|&size| size as i64).collect();
        let (gamma, beta) = (self.weights(&dims, &norm.gamma.data), self.weights(&dims, &norm.beta.data));
        let y = self.node("Mul", &[&y, &gamma], &[]);
        self.node("Add", &[&y, &beta], &[])
    }

    fn chain(&mut self, chain: &[UnaryFn], x: String) -> String {
        chain.iter().fold(x, |x, function| self.function(function, &x))
    }

    fn function(&mut self, function: &UnaryFn, x: &str) -> String {
        match function {
            UnaryFn::Clamp(clamp) => self.clip(x, *clamp),
            UnaryFn::LeakyRelu { slope } => self.node("LeakyRelu", &[x], &[("alpha", (*slope).into())]),
            UnaryFn::Sigmoid => self.node("Sigmoid", &[x], &[]),
            UnaryFn::Tanh => self.node("Tanh", &[x], &[]),
            UnaryFn::HardSigmoid { alpha, beta } => {
                self.node("HardSigmoid", &[x], &[("alpha", (*alpha).into()), ("beta", (*beta).into())])
            }
            UnaryFn::Linear { scale, shift } => {
                let (scale, shift) = (self.weights(&[], &[*scale]), self.weights(&[], &[*shift]));
                let y = self.node("Mul", &[x, &scale], &[]);
                self.node("Add", &[&y, &shift], &[])
            }
            UnaryFn::Gated(gate) => {
                let gate = self.chain(gate, x.to_owned());
                self.node("Mul", &[x, &gate], &[])
            }
            UnaryFn::Plain(function) => self.node(&format!("{function:?}"), &[x], &[]),
            UnaryFn::Elu { alpha, gamma, .. } => {
                self.node("Selu", &[x], &[("alpha", (*alpha).into()), ("gamma", (*gamma).into())])
            }
            UnaryFn::ThresholdedRelu { threshold } => {
                self.node("ThresholdedRelu", &[x], &[("alpha", (*threshold).into())])
            }
            UnaryFn::Shrink { lambda, bias } => {
                self.node("Shrink", &[x], &[("lambd", (*lambda).into()), ("bias", (*bias).into())])
            }
            UnaryFn::Power { exponent } => {
                let exponent = self.weights(&[], &[*exponent]);
                self.node("Pow", &[x, &exponent], &[])
            }
            UnaryFn::Joined { join, a, b } => {
                let (a, b) = (self.chain(a, x.to_owned()), self.chain(b, x.to_owned()));
                let op = match join {
                    Join::Add => "Add",
                    Join::Subtract => "Sub",
                    Join::Multiply => "Mul",
                };
                self.node(op, &[&a, &b], &[])
            }
            UnaryFn::PowerOf { base } => {
                let base = self.weights(&[], &[*base]);
                self.node("Pow", &[&base, x], &[])
            }
            UnaryFn::Compare { .. } => unreachable!("truth values are not exported"),
        }
    }

    fn slice(&mut self, slice: &QSlice, x: &str) -> String {
        let rank = slice.start.len();
        let at = |axis: usize, i: isize| slice.start[axis] as i64 + (slice.step[axis] * i) as i64;
        let starts: Vec<i64> = slice.start.iter().map(|&start| start as i64).collect();
        // A first element that is left out may lie before the tensor: the end that says so has to be far below 0.
        let end = |axis: usize| match at(axis, slice.size[axis] as isize) {
            end if end < 0 => i64::MIN,
            end => end,
        };
        let ends: Vec<i64> = (0..rank).map(end).collect();
        let axes: Vec<i64> = (0..rank as i64).collect();
        let steps: Vec<i64> = slice.step.iter().map(|&step| step as i64).collect();
        let [starts, ends, axes, steps] = [starts, ends, axes, steps].map(|values| self.ints(&values));
        self.node("Slice", &[x, &starts, &ends, &axes, &steps], &[])
    }

    fn pad(&mut self, pad: &QPad, x: &str, params: Params) -> String {
        let amounts: Vec<i64> = pad.before.iter().chain(&pad.after).map(|&n| n as i64).collect();
        let amounts = self.ints(&amounts);
        match pad.mode {
            PadMode::Constant(q) => {
                let value = self.weights(&[], &[params.dequantize(q) as f32]);
                self.node("Pad", &[x, &amounts, &value], &[])
            }
            PadMode::Reflect => self.node("Pad", &[x, &amounts], &[("mode", "reflect".into())]),
            PadMode::Edge => self.node("Pad", &[x, &amounts], &[("mode", "edge".into())]),
            PadMode::Wrap => self.node("Pad", &[x, &amounts], &[("mode", "wrap".into())]),
        }
    }

    /// A new int8 input of the model, as reals.
    fn dequantized(&mut self, name: &str, ty: &QuantType) -> Result<String> {
        let params = ty.params().context("a tensor of reals")?;
        let dims: Vec<String> = ty.shape.dims().iter().map(usize::to_string).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        self.onnx = std::mem::take(&mut self.onnx).typed_input(name, 3, &dims);
        let (scale, zero) = self.params(params);
        Ok(self.node("DequantizeLinear", &[name, &scale, &zero], &[]))
    }

    fn quantized(&mut self, x: &str, params: Params) -> String {
        let (scale, zero) = self.params(params);
        self.node("QuantizeLinear", &[x, &scale, &zero], &[])
    }

    fn params(&mut self, params: Params) -> (String, String) {
        let scale = self.weights(&[], &[params.scale.as_f32()]);
        let zero = self.name();
        self.onnx = std::mem::take(&mut self.onnx).initializer(&zero, 3, &[], vec![params.zero_point as i8 as u8]);
        (scale, zero)
    }

    /// A clamp that is narrower than the element type, as a Clip on reals.
    fn clamped(&mut self, x: String, clamp: ptqc::ir::Clamp, params: Params) -> String {
        if clamp == ptqc::ir::Clamp::full(DType::I8) {
            return x;
        }
        let real = |q: i32| params.dequantize(q) as f32;
        self.clip(&x, RealClamp { lo: real(clamp.lo), hi: real(clamp.hi) })
    }

    fn clip(&mut self, x: &str, clamp: RealClamp) -> String {
        let (lo, hi) = (self.weights(&[], &[clamp.lo]), self.weights(&[], &[clamp.hi]));
        self.node("Clip", &[x, &lo, &hi], &[])
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> String {
        let name = self.name();
        self.onnx = std::mem::take(&mut self.onnx).node_with(op, inputs, &[&name], attributes);
        name
    }

    fn weights(&mut self, dims: &[i64], data: &[f32]) -> String {
        let name = self.name();
        self.onnx = std::mem::take(&mut self.onnx).weights(&name, dims, data);
        name
    }

    fn ints(&mut self, data: &[i64]) -> String {
        let name = self.name();
        self.onnx = std::mem::take(&mut self.onnx).ints(&name, &[data.len() as i64], data);
        name
    }

    fn name(&mut self) -> String {
        self.fresh += 1;
        format!("t{}", self.fresh)
    }
}

/// What the integers of a weighted layer stand for: weights and biases.
fn real_weights(weighted: &Weighted, input: &QuantType, output: Params) -> Result<(Vec<f32>, Vec<f32>)> {
    let s_in = input.params().context("a tensor of reals")?.scale.get();
    let row_len = weighted.weights.len() / weighted.channels.len();
    let weights = weighted.weights.iter().enumerate();
    let weights = weights.map(|(i, &w)| f32::from(w) * weighted.channels[i / row_len].weight_scale).collect();
    let bias = weighted.channels.iter().map(|channel| match channel.weight_scale {
        // A constant: its bias is in half steps of the result.
        0.0 => (f64::from(channel.bias) / 2.0 * output.scale.get()) as f32,
        scale => (f64::from(channel.bias) * s_in * f64::from(scale)) as f32,
    });
    Ok((weights, bias.collect()))
}

fn window_attributes(window: &Window) -> Vec<(&'static str, Attr)> {
    let ints = |values: &[usize]| Attr::Ints(values.iter().map(|&value| value as i64).collect());
    vec![
        ("kernel_shape", ints(&window.kernel)),
        ("strides", ints(&window.stride)),
        ("dilations", ints(&window.dilation)),
        ("pads", ints(&[&window.pad_begin[..], &window.pad_end].concat())),
    ]
}

fn pool_attributes(window: &Window) -> Vec<(&'static str, Attr)> {
    let mut attributes = window_attributes(window);
    attributes.push(("ceil_mode", i64::from(window.ceil).into()));
    attributes
}

/// A float model with the types of its outputs left to the other runtime.
pub fn untyped_outputs(model: &Onnx) -> Vec<u8> {
    let mut proto = model.proto.clone();
    for output in proto.graph.iter_mut().flat_map(|graph| &mut graph.output) {
        output.r#type = None;
    }
    proto.encode_to_vec()
}

/// Whether every dimension of every input is a number.
pub fn has_fixed_inputs(model: &Onnx) -> bool {
    let inputs = model.proto.graph.iter().flat_map(|graph| &graph.input);
    let types = inputs.filter_map(|input| input.r#type.as_ref()?.value.as_ref());
    let real = |pb::type_proto::Value::TensorType(tensor): &&pb::type_proto::Value| tensor.elem_type == 1;
    types.into_iter().all(|ty| real(&ty) && has_fixed_dims(ty))
}

fn has_fixed_dims(pb::type_proto::Value::TensorType(tensor): &pb::type_proto::Value) -> bool {
    tensor
        .shape
        .iter()
        .flat_map(|shape| &shape.dim)
        .all(|dim| matches!(dim.value, Some(pb::tensor_shape_proto::dimension::Value::DimValue(_))))
}
