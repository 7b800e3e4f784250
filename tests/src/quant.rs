//! Small quantized graphs, without a model and ranges to make them from.

use std::collections::BTreeMap;

use fastrand::Rng;
use ptqc::ir::{
    Checked, Clamp, DType, Encoding, Graph, Interval, Multiplier, Node, NodeId, Params, Quant, QuantType, Scale, Shape,
    Window,
};
use ptqc::ops::QuantOp;
use ptqc::ops::add::QAdd;
use ptqc::ops::affine::QAffine;
use ptqc::ops::arg_max::QArgMax;
use ptqc::ops::average_pool::QAveragePool;
use ptqc::ops::concat::QConcat;
use ptqc::ops::constant::QConstant;
use ptqc::ops::conv::QConv;
use ptqc::ops::fixed_sum::{FixedSum, Precision};
use ptqc::ops::input::{Element, QInput};
use ptqc::ops::linear::QLinear;
use ptqc::ops::max_pool::QMaxPool;
use ptqc::ops::mean::QMean;
use ptqc::ops::mul::QMul;
use ptqc::ops::pad::{PadMode, QPad};
use ptqc::ops::reshape::QReshape;
use ptqc::ops::slice::QSlice;
use ptqc::ops::softmax::QSoftmax;
use ptqc::ops::transpose::QTranspose;
use ptqc::ops::unary::Table;
use ptqc::ops::weighted::{Channel, Weighted};

/// A graph under construction. Every tensor has scale 1, so only zero points matter.
#[derive(Debug, Clone, Default)]
pub struct Net {
    graph: Graph<Quant>,
    count: usize,
}

/// A row of weights and a bias for each output channel.
pub type Rows = Vec<(Vec<i8>, i32)>;

/// Bounds of an int8 result.
pub const FULL: Clamp = Clamp { lo: -128, hi: 127 };

impl Net {
    /// Adds an input.
    pub fn input(&mut self, dims: &[usize], zero: i32) -> NodeId {
        let shape = Shape::new(dims);
        let node = self.node(QInput { shape: shape.clone(), element: Element::Real }.into(), shape, zero);
        self.graph.add_input(node)
    }

    /// Declares an output.
    pub fn output(&mut self, id: NodeId) {
        let name = self.graph.node(id).name.clone();
        self.graph.add_output(name, id);
    }

    /// Adds an operator; `zero` is the zero point of its result.
    pub fn add(&mut self, op: impl Into<QuantOp>, operands: &[NodeId], zero: i32) -> NodeId {
        let op = op.into();
        let shapes: Vec<&Shape> = operands.iter().map(|&id| &self.graph.node(id).value.shape).collect();
        let shape = op.infer(&shapes).unwrap_or_else(|problem| panic!("{}: {problem}", op.kind()));
        let node = self.node(op, shape, zero);
        self.graph.add(node, operands)
    }

    fn node(&mut self, op: QuantOp, shape: Shape, zero: i32) -> Node<Quant> {
        let name = format!("{}{}", op.kind().to_lowercase(), self.count);
        self.count += 1;
        let params = Params { scale: Scale::new(1.0).expect("1 is a scale"), zero_point: zero };
        let value = match &op {
            QuantOp::ArgMax(_) => QuantType { shape, dtype: DType::I32, encoding: Encoding::Index },
            _ => QuantType::int8(shape, params),
        };
        Node { name, observed: None, origin: vec![], op, value }
    }

    /// Name of a tensor.
    pub fn name(&self, id: NodeId) -> String {
        self.graph.node(id).name.clone()
    }

    /// Shape of a tensor.
    pub fn dims(&self, id: NodeId) -> Vec<usize> {
        self.graph.node(id).value.shape.dims().to_vec()
    }

    /// Zero point of a tensor.
    pub fn zero(&self, id: NodeId) -> i32 {
        self.graph.node(id).value.params().map_or(0, |params| params.zero_point)
    }

    /// Adds a convolution with these rows. A mean product of 64 is a step of the result.
    pub fn conv(
        &mut self,
        x: NodeId,
        rows: Rows,
        window: Window,
        groups: usize,
        (zero, clamp): (i32, Clamp),
    ) -> NodeId {
        let weighted = weighted_mean(rows, (self.zero(x), zero), clamp);
        self.add(QConv { weighted, window, groups }, &[x], zero)
    }

    /// Adds a product with these rows.
    pub fn linear(&mut self, x: NodeId, rows: Rows, (zero, clamp): (i32, Clamp)) -> NodeId {
        let weighted = weighted_mean(rows, (self.zero(x), zero), clamp);
        self.add(QLinear { weighted }, &[x], zero)
    }

    /// Adds a sum of two tensors, halved.
    pub fn sum(&mut self, a: NodeId, b: NodeId, zero: i32) -> NodeId {
        let precision = Precision { shift: 16, wide: false, even: false };
        let half = 1 << 15;
        let offset = (i64::from(zero) << 16) + half - half * i64::from(self.zero(a) + self.zero(b));
        let sum = FixedSum { factors: vec![1 << 15; 2], offset };
        self.add(QAdd { sum, precision, clamp: FULL }, &[a, b], zero)
    }

    /// The graph, without what no output needs.
    pub fn finish(mut self) -> Checked<Graph<Quant>> {
        self.graph.remove_unused();
        self.graph.check().unwrap_or_else(|error| panic!("{}", error.0))
    }
}

fn weighted_mean(rows: Rows, zeros: (i32, i32), clamp: Clamp) -> Weighted {
    let factor = 1.0 / (64 * rows[0].0.len()) as f64;
    weighted(rows, factor, zeros, clamp)
}

/// Weights, with the bounds of their sums for any int8 input.
pub fn weighted(rows: Rows, factor: f64, (input_zero, output_zero): (i32, i32), clamp: Clamp) -> Weighted {
    let channel = |(row, bias): &(Vec<i8>, i32)| {
        let terms = row.iter().map(|&w| {
            let ends = [-128 - input_zero, 127 - input_zero].map(|x| i64::from(w) * i64::from(x));
            (ends[0].min(ends[1]), ends[0].max(ends[1]))
        });
        let (lo, hi) = terms.fold((i64::from(*bias), i64::from(*bias)), |sum, term| (sum.0 + term.0, sum.1 + term.1));
        let multiplier = Multiplier::new(factor).expect("the factor is in range");
        Channel { bias: *bias, multiplier, bound: Interval::new(lo, hi), weight_scale: 1.0, weight_zero: 0 }
    };
    let channels = rows.iter().map(channel).collect();
    Weighted {
        channels,
        weights: rows.into_iter().flat_map(|(row, _)| row).collect(),
        weight_type: DType::I8,
        input_type: DType::I8,
        input_zero,
        output_zero,
        clamp,
    }
}

/// A graph of random operators on one or two inputs, in which channels are often constant or not read.
pub fn random(seed: u64) -> Checked<Graph<Quant>> {
    let mut random = Random { rng: Rng::with_seed(seed), net: Net::default(), tensors: vec![] };
    let spatial = (0..random.rng.usize(1..=2)).map(|_| random.rng.usize(3..=6)).collect::<Vec<_>>();
    let dims = [&[random.rng.usize(1..=2), random.rng.usize(1..=5)], &spatial[..]].concat();
    for _ in 0..random.rng.usize(1..=2) {
        let zero = random.zero();
        let input = random.net.input(&dims, zero);
        random.tensors.push(input);
    }
    for _ in 0..random.rng.usize(3..=12) {
        random.step();
    }
    random.finish()
}

struct Random {
    rng: Rng,
    net: Net,
    tensors: Vec<NodeId>,
}

impl Random {
    fn zero(&mut self) -> i32 {
        [-128, -128, 127, 0, self.rng.i32(-128..=127)][self.rng.usize(0..5)]
    }

    fn clamp(&mut self, zero: i32) -> Clamp {
        let lo = if self.rng.bool() { zero } else { -128 };
        Clamp { lo, hi: if self.rng.usize(0..4) == 0 { self.rng.i32(lo..=127) } else { 127 } }
    }

    /// One of the tensors, mostly of the last.
    fn pick(&mut self) -> NodeId {
        let back = self.rng.usize(0..8).saturating_sub(5).min(self.tensors.len() - 1);
        self.tensors[self.tensors.len() - 1 - back]
    }

    /// Rows that are often constant and columns that are often not read.
    fn rows(&mut self, rows: usize, columns: usize, taps: usize) -> Rows {
        let read: Vec<bool> = (0..columns).map(|_| self.rng.usize(0..4) > 0).collect();
        let row = |rng: &mut Rng| {
            let w = |at: usize| if read[at / taps] && rng.usize(0..8) > 0 { rng.i8(-127..=127) } else { 0 };
            let mut weights: Vec<i8> = (0..columns * taps).map(w).collect();
            let bias = match rng.usize(0..8) {
                0 => {
                    weights.fill(0);
                    rng.i32(-4000..4000)
                }
                1 | 2 => -20_000_000,
                3 => 20_000_000,
                _ => rng.i32(-20_000..20_000),
            };
            (weights, bias)
        };
        (0..rows).map(|_| row(&mut self.rng)).collect()
    }

    fn weighted(&mut self, x: NodeId, zero: i32, (rows, columns, taps): (usize, usize, usize)) -> Weighted {
        let rows = self.rows(rows, columns, taps);
        let clamp = self.clamp(zero);
        let factor = [0.02, 0.003, 1.0][self.rng.usize(0..3)] / (columns * taps) as f64;
        weighted(rows, factor, (self.net.zero(x), zero), clamp)
    }

    fn window(&mut self, spatial: &[usize], pads: bool) -> Window {
        let mut window = Window::unit(spatial.len());
        for (axis, &size) in spatial.iter().enumerate() {
            window.kernel[axis] = self.rng.usize(1..=size.min(3));
            window.stride[axis] = self.rng.usize(1..=2);
            if pads && self.rng.bool() {
                let most = window.kernel[axis] - 1;
                (window.pad_begin[axis], window.pad_end[axis]) = (self.rng.usize(0..=most), self.rng.usize(0..=most));
            }
        }
        window
    }

    fn step(&mut self) {
        let x = self.pick();
        let dims = self.net.dims(x);
        let zero = self.zero();
        let is_image = dims.len() >= 3;
        let made = match self.rng.usize(0..18) {
            0..=3 if is_image => self.conv(x, &dims, zero),
            4 => self.linear(x, &dims, zero),
            5 => {
                let (limit, slope) = (self.rng.i32(-128..=127), self.rng.i32(-2..=2));
                let entries = (-128..=127).map(|q: i32| (q.max(limit) * slope).clamp(-128, 127) as i16).collect();
                self.net.add(Table { entries }, &[x], zero)
            }
            6 => self.affine(x, &dims, zero),
            7 | 8 => self.binary(x, &dims, zero),
            9 if is_image => {
                let window = self.window(&dims[2..], true);
                let zero = self.net.zero(x);
                self.net.add(QMaxPool { window }, &[x], zero)
            }
            10 if is_image => self.average(x, &dims, zero),
            11 => self.joined(x, &dims),
            12 => self.sliced(x, &dims),
            13 => self.padded(x, &dims),
            14 if dims.len() >= 2 => {
                let mut order: Vec<usize> = (0..dims.len()).collect();
                self.rng.shuffle(&mut order[1..]);
                let zero = self.net.zero(x);
                self.net.add(QTranspose { order }, &[x], zero)
            }
            15 => self.reshaped(x, &dims),
            16 => {
                let axis = self.rng.usize(0..dims.len());
                let softmax = QSoftmax::new(axis, 0.05, dims[axis]).expect("the row is short");
                self.net.add(softmax, &[x], -128)
            }
            17 if dims.len() >= 2 => {
                let axes: Vec<usize> = (1..dims.len()).filter(|_| self.rng.bool()).collect();
                let count = axes.iter().map(|&axis| dims[axis]).product();
                let multiplier = Multiplier::new(1.5 / count as f64).expect("the factor is in range");
                let (input_zero, clamp) = (self.net.zero(x), self.clamp(zero));
                let keep_dims = self.rng.bool();
                let mean = QMean {
                    axes,
                    keep_dims,
                    is_sum: false,
                    count,
                    multiplier,
                    input_type: DType::I8,
                    input_zero,
                    output_zero: zero,
                    clamp,
                };
                self.net.add(mean, &[x], zero)
            }
            _ => return,
        };
        self.tensors.push(made);
    }

    fn conv(&mut self, x: NodeId, dims: &[usize], zero: i32) -> NodeId {
        let window = self.window(&dims[2..], true);
        let inputs = dims[1];
        let divisors: Vec<usize> = (1..=inputs).filter(|&groups| inputs.is_multiple_of(groups)).collect();
        let groups = if self.rng.bool() { 1 } else { divisors[self.rng.usize(0..divisors.len())] };
        let rows = if groups == 1 { self.rng.usize(1..=6) } else { groups * self.rng.usize(1..=2) };
        let weighted = self.weighted(x, zero, (rows, inputs / groups, window.taps()));
        self.net.add(QConv { weighted, window, groups }, &[x], zero)
    }

    fn linear(&mut self, x: NodeId, dims: &[usize], zero: i32) -> NodeId {
        let (rows, columns) = (self.rng.usize(1..=6), dims[dims.len() - 1]);
        let weighted = self.weighted(x, zero, (rows, columns, 1));
        self.net.add(QLinear { weighted }, &[x], zero)
    }

    fn affine(&mut self, x: NodeId, dims: &[usize], zero: i32) -> NodeId {
        let axis = self.rng.usize(0..dims.len());
        let channel = |rng: &mut Rng| {
            let factor = if rng.usize(0..4) == 0 { 0 } else { rng.i32(-30_000..30_000) };
            FixedSum { factors: vec![factor], offset: rng.i64(-4_000_000..4_000_000) }
        };
        let channels = (0..dims[axis]).map(|_| channel(&mut self.rng)).collect();
        let clamp = self.clamp(zero);
        let precision = Precision { shift: 14, wide: false, even: false };
        self.net.add(QAffine { channels, axis, precision, clamp }, &[x], zero)
    }

    /// With another tensor of the same shape, a constant, or one number for each channel.
    fn binary(&mut self, x: NodeId, dims: &[usize], zero: i32) -> NodeId {
        let alike: Vec<NodeId> = self.tensors.iter().copied().filter(|&id| self.net.dims(id) == dims).collect();
        let other = match self.rng.usize(0..3) {
            0 => self.constant(dims),
            1 => {
                let axis = self.rng.usize(0..dims.len());
                let dims: Vec<usize> = (0..dims.len()).map(|a| if a == axis { dims[a] } else { 1 }).collect();
                self.constant(&dims)
            }
            _ => alike[self.rng.usize(0..alike.len())],
        };
        let operands = if self.rng.bool() { [x, other] } else { [other, x] };
        if self.rng.bool() {
            return self.net.sum(operands[0], operands[1], zero);
        }
        let zeros = operands.map(|id| self.net.zero(id));
        let multiplier = Multiplier::new(0.01).expect("the factor is in range");
        let clamp = self.clamp(zero);
        self.net.add(QMul { zeros, types: [DType::I8; 2], multiplier, output_zero: zero, clamp }, &operands, zero)
    }

    fn constant(&mut self, dims: &[usize]) -> NodeId {
        let shape = Shape::new(dims);
        let data = (0..shape.len()).map(|_| self.rng.i32(-128..=127)).collect();
        let zero = self.zero();
        self.net.add(QConstant { shape, data }, &[], zero)
    }

    fn average(&mut self, x: NodeId, dims: &[usize], zero: i32) -> NodeId {
        let window = self.window(&dims[2..], true);
        let multiplier = |count| Multiplier::new(1.0 / count as f64).expect("the factor is in range");
        let multipliers: BTreeMap<usize, Multiplier> =
            (1..=window.taps()).map(|count| (count, multiplier(count))).collect();
        let (input_zero, clamp) = (self.net.zero(x), self.clamp(zero));
        let include_pad = self.rng.bool();
        let input_type = DType::I8;
        let pool = QAveragePool { window, include_pad, multipliers, input_type, input_zero, output_zero: zero, clamp };
        self.net.add(pool, &[x], zero)
    }

    /// With tensors of which only one axis differs, or with itself.
    fn joined(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        let axis = self.rng.usize(0..dims.len());
        let fits =
            |other: &[usize]| other.len() == dims.len() && (0..dims.len()).all(|a| a == axis || other[a] == dims[a]);
        let fitting: Vec<NodeId> = self.tensors.iter().copied().filter(|&id| fits(&self.net.dims(id))).collect();
        let other = fitting[self.rng.usize(0..fitting.len())];
        let zero = self.net.zero(x);
        self.net.add(QConcat { axis }, &[x, other], zero)
    }

    fn sliced(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        let mut slice = QSlice::whole(&Shape::new(dims));
        for (axis, &dim) in dims.iter().enumerate() {
            let size = self.rng.usize(1..=dim);
            let step: isize = [1, 1, -1, 2][self.rng.usize(0..4)];
            let span = (size - 1) * usize::from(step == 2);
            let size = if size + span > dim { 1 } else { size };
            let first = self.rng.usize(0..=dim - (size - 1) * step.unsigned_abs() - 1);
            let start = if step == -1 { first + size - 1 } else { first };
            (slice.start[axis], slice.step[axis], slice.size[axis]) = (start, step, size);
        }
        let zero = self.net.zero(x);
        self.net.add(slice, &[x], zero)
    }

    fn padded(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        let fill = self.rng.i32(-128..=127);
        let mode = [PadMode::Constant(fill), PadMode::Reflect, PadMode::Edge, PadMode::Wrap][self.rng.usize(0..4)];
        let amounts = |rng: &mut Rng| dims.iter().map(|_| rng.usize(0..4).saturating_sub(2)).collect();
        let pad = QPad { before: amounts(&mut self.rng), after: amounts(&mut self.rng), mode };
        let zero = self.net.zero(x);
        self.net.add(pad, &[x], zero)
    }

    /// Two neighbouring axes become one, or one becomes two.
    fn reshaped(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        let axis = self.rng.usize(0..dims.len());
        let mut shape = dims.to_vec();
        if self.rng.bool() && axis + 1 < dims.len() {
            shape[axis] *= shape.remove(axis + 1);
        } else {
            let factor = (2..=dims[axis]).find(|factor| dims[axis].is_multiple_of(*factor)).unwrap_or(1);
            shape[axis] /= factor;
            shape.insert(axis + self.rng.usize(0..=1), factor);
        }
        let zero = self.net.zero(x);
        self.net.add(QReshape { shape: Shape::new(shape) }, &[x], zero)
    }

    /// The last tensor is an output, and a few others are. What is an output is needed whole, so most graphs end in a layer
    /// that does not read everything.
    fn finish(mut self) -> Checked<Graph<Quant>> {
        let x = self.tensors[self.tensors.len() - 1];
        let dims = self.net.dims(x);
        if self.rng.usize(0..4) > 0 {
            let y = if dims.len() >= 3 { self.conv(x, &dims, 0) } else { self.linear(x, &dims, 0) };
            self.tensors.push(y);
        }
        let last = self.tensors.len() - 1;
        for index in 0..=last {
            if index == last || self.rng.usize(0..12) == 0 {
                self.net.output(self.tensors[index]);
            }
        }
        if self.rng.usize(0..4) == 0 {
            let (last, axis) = (self.tensors[last], self.net.dims(self.tensors[last]).len() - 1);
            let best =
                self.net.add(QArgMax { axis, keep_dims: self.rng.bool(), last: false, smallest: false }, &[last], 0);
            self.net.output(best);
        }
        self.net.finish()
    }
}
