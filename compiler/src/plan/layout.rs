//! Chooses the layout of every tensor and the buffer it lies in.
//!
//! Convolutions write channels last; everything else follows its operand. A transpose is a change of view and
//! costs nothing; a reshape likewise where the layout has the factors for it. Where a kernel needs evenly spaced
//! axes and the view has none, or where an output of the model must be row-major, a Copy layer is added.

use std::collections::BTreeMap;

use ptqc_target_runtimes::Target;

use super::fuse::fuse_additions;
use super::view::{View, nest};
use super::{ArenaPlan, Goal, Layer, Place, Plan, PlannedBuffer, PlannedTensor, TensorId, Work};
use crate::diag::{self, Diagnostic};
use crate::ir::{Checked, Graph, Node, NodeId, Origin, Quant, QuantType, Shape};
use crate::kernels;
use crate::ops::QuantOp;
use crate::ops::mean::QMean;
use crate::ops::reduce::QReduce;

/// A plan without addresses in the arena.
pub fn lay_out(graph: &Checked<Graph<Quant>>, target: &Target, goal: Goal) -> diag::Result<Plan> {
    let plan = Plan {
        tensors: vec![],
        buffers: vec![],
        layers: vec![],
        steps: vec![],
        inputs: vec![],
        outputs: vec![],
        arena: ArenaPlan { bytes: 0, lower_bound: 0, peak_layer: 0 },
    };
    let mut layouter = Layouter { graph, plan, tensors: BTreeMap::new() };
    for id in graph.topological() {
        layouter.add(id);
    }
    layouter.add_outputs();
    let mut plan = layouter.plan;
    choose_kernels(&mut plan, target, goal)?;
    fuse_additions(&mut plan, target, goal);
    Ok(plan)
}

struct Layouter<'a> {
    graph: &'a Checked<Graph<Quant>>,
    plan: Plan,
    tensors: BTreeMap<NodeId, TensorId>,
}

impl Layouter<'_> {
    fn add(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let operands: Vec<TensorId> = self.graph.operands(id).iter().map(|operand| self.tensors[operand]).collect();
        let tensor = match &node.op {
            QuantOp::Input(_) => self.add_input(node),
            QuantOp::Constant(constant) => {
                let place = Place::Constant(constant.data.clone());
                self.new_tensor(&node.name, node.value.clone(), View::row_major(&node.value.shape), place)
            }
            QuantOp::Transpose(transpose) => {
                let view = self.plan.tensor(operands[0]).view.transposed(&transpose.order);
                self.alias(operands[0], node, view)
            }
            QuantOp::Reshape(reshape) => self.add_reshape(operands[0], node, &reshape.shape),
            _ => self.add_layer(id, operands),
        };
        self.tensors.insert(id, tensor);
    }

    fn add_input(&mut self, node: &Node<Quant>) -> TensorId {
        let place = Place::Input(self.plan.inputs.len());
        let tensor = self.new_tensor(&node.name, node.value.clone(), View::row_major(&node.value.shape), place);
        self.plan.inputs.push(tensor);
        tensor
    }

    fn add_reshape(&mut self, operand: TensorId, node: &Node<Quant>, shape: &Shape) -> TensorId {
        if let Some(view) = self.plan.tensor(operand).view.reshaped(shape) {
            return self.alias(operand, node, view);
        }
        let copied =
            self.copied(operand, View::row_major(&self.plan.tensor(operand).ty.shape.clone()), Place::Arena(0));
        self.alias(copied, node, View::row_major(shape))
    }

    /// A tensor in the buffer of another.
    fn alias(&mut self, of: TensorId, node: &Node<Quant>, view: View) -> TensorId {
        let buffer = self.plan.tensor(of).buffer;
        self.plan.tensors.push(PlannedTensor { name: node.name.clone(), ty: node.value.clone(), view, buffer });
        TensorId(self.plan.tensors.len() - 1)
    }

    fn add_layer(&mut self, id: NodeId, operands: Vec<TensorId>) -> TensorId {
        let node = self.graph.node(id);
        let destination = self.destination(id);
        let operands = self.readable(&node.op, operands, &node.value.shape);
        let result = match destination {
            Some((output, order)) => {
                let view = View::dense(&node.value.shape, &order);
                self.new_tensor(&node.name, node.value.clone(), view, Place::Output(output))
            }
            None => {
                let view = self.result_view(node, &operands);
                self.new_tensor(&node.name, node.value.clone(), view, Place::Arena(0))
            }
        };
        // An elementwise operator may find that its operands and the chosen result have no common loops.
        let operands = self.with_common_loops(&node.op, operands, result);
        self.add_step(&node.name, node.origin.clone(), Work::Operator(node.op.clone()), operands, result);
        result
    }

    fn add_step(&mut self, name: &str, origin: Vec<Origin>, work: Work, operands: Vec<TensorId>, result: TensorId) {
        self.plan.layers.push(Layer {
            name: name.to_owned(),
            origin,
            work,
            operands,
            result,
            added: None,
            kernel: kernels::UNDECIDED,
            scratch: None,
            overlaps: vec![],
            source: self.plan.layers.len(),
            rows: None,
        });
    }

    fn new_tensor(&mut self, name: &str, ty: QuantType, view: View, place: Place) -> TensorId {
        self.plan.buffers.push(PlannedBuffer { bytes: ty.bytes(), place });
        let buffer = self.plan.buffers.len() - 1;
        self.plan.tensors.push(PlannedTensor { name: name.to_owned(), ty, view, buffer });
        TensorId(self.plan.tensors.len() - 1)
    }

    /// The same tensor in another layout, by a Copy layer.
    fn copied(&mut self, tensor: TensorId, view: View, place: Place) -> TensorId {
        let PlannedTensor { name, ty, .. } = self.plan.tensor(tensor).clone();
        let copy = self.new_tensor(&name, ty, view, place);
        self.add_step(&name, vec![], Work::Copy, vec![tensor], copy);
        copy
    }

    /// The model's output that a node's elements end in without further computation, and the order of axes for it.
    fn destination(&self, id: NodeId) -> Option<(usize, Vec<usize>)> {
        let rank = self.graph.node(id).value.shape.rank();
        if let Some(output) = self.graph.outputs().iter().position(|output| output.node == id) {
            return Some((output, (0..rank).collect()));
        }
        self.graph.consumers(id).into_iter().find_map(|consumer| {
            let moves = matches!(self.graph.node(consumer).op, QuantOp::Transpose(_) | QuantOp::Reshape(_));
            let (output, order) = if moves { self.destination(consumer)? } else { return None };
            match &self.graph.node(consumer).op {
                QuantOp::Transpose(transpose) => {
                    Some((output, order.iter().map(|&axis| transpose.order[axis]).collect()))
                }
                _ => order.iter().copied().eq(0..order.len()).then(|| (output, (0..rank).collect())),
            }
        })
    }

    /// Operands with evenly spaced axes, for operators whose loops need them.
    fn readable(&mut self, op: &QuantOp, operands: Vec<TensorId>, result: &Shape) -> Vec<TensorId> {
        let fits = |tensor: &PlannedTensor| match op {
            op if op.is_elementwise() => true,
            QuantOp::Linear(_) => row_offsets(&tensor.view, &tensor.ty.shape).is_some(),
            QuantOp::Concat(_) => tensor.view.strides().is_some() && tensor.ty.shape.rank() == result.rank(),
            _ => tensor.view.strides().is_some(),
        };
        operands
            .into_iter()
            .map(|operand| {
                let tensor = self.plan.tensor(operand);
                if fits(tensor) {
                    return operand;
                }
                let view = View::row_major(&tensor.ty.shape.clone());
                self.copied(operand, view, Place::Arena(0))
            })
            .collect()
    }

    fn result_view(&self, node: &Node<Quant>, operands: &[TensorId]) -> View {
        let shape = &node.value.shape;
        let first = self.plan.tensor(operands[0]);
        match &node.op {
            QuantOp::Conv(_) => {
                let mut order: Vec<usize> = (0..shape.rank()).filter(|&axis| axis != 1).collect();
                order.push(1);
                View::dense(shape, &order)
            }
            QuantOp::Table(_)
            | QuantOp::Curve(_)
            | QuantOp::Rescale(_)
            | QuantOp::Affine(_)
            | QuantOp::Softmax(_)
            | QuantOp::Normalize(_) => first.view.clone(),
            op if op.is_elementwise() => {
                let same =
                    operands.iter().map(|&operand| self.plan.tensor(operand)).find(|tensor| tensor.ty.shape == *shape);
                same.map_or_else(|| View::row_major(shape), |tensor| tensor.view.clone())
            }
            QuantOp::Mean(QMean { axes, keep_dims: false, .. })
            | QuantOp::Reduce(QReduce { axes, keep_dims: false, .. }) => {
                let kept: Vec<usize> = (0..first.ty.shape.rank()).filter(|axis| !axes.contains(axis)).collect();
                let order = first.view.order().into_iter().filter_map(|axis| kept.iter().position(|&k| k == axis));
                View::dense(shape, &order.collect::<Vec<_>>())
            }
            QuantOp::MaxPool(_)
            | QuantOp::AveragePool(_)
            | QuantOp::Mean(_)
            | QuantOp::Reduce(_)
            | QuantOp::Concat(_)
            | QuantOp::Slice(_)
            | QuantOp::Lrn(_)
            | QuantOp::TopK(_)
            | QuantOp::Interleave(_)
            | QuantOp::Resample(_)
            | QuantOp::Pad(_) => View::dense(shape, &first.view.order()),
            _ => View::row_major(shape),
        }
    }

    fn with_common_loops(&mut self, op: &QuantOp, operands: Vec<TensorId>, result: TensorId) -> Vec<TensorId> {
        if !op.is_elementwise() {
            return operands;
        }
        let rank = self.plan.tensor(result).ty.shape.rank();
        // Each operand has to fit those before it, too: two can split an axis in different ways.
        let mut views = vec![self.plan.tensor(result).view.clone()];
        let mut fitting = vec![];
        for operand in operands {
            let tensor = self.plan.tensor(operand);
            views.push(tensor.view.extended(rank));
            if nest(&views.iter().collect::<Vec<_>>()).is_some() {
                fitting.push(operand);
                continue;
            }
            let view = View::row_major(&tensor.ty.shape.clone());
            views.pop();
            views.push(view.extended(rank));
            fitting.push(self.copied(operand, view, Place::Arena(0)));
        }
        fitting
    }

    fn add_outputs(&mut self) {
        for (index, output) in self.graph.outputs().iter().enumerate() {
            let tensor = self.tensors[&output.node];
            let planned = self.plan.tensor(tensor);
            let row_major = View::row_major(&planned.ty.shape);
            let there = self.plan.buffers[planned.buffer].place == Place::Output(index) && planned.view == row_major;
            let tensor = if there { tensor } else { self.copied(tensor, row_major, Place::Output(index)) };
            self.plan.outputs.push((output.name.clone(), tensor));
        }
    }
}

/// Gives every layer its kernel.
fn choose_kernels(plan: &mut Plan, target: &Target, goal: Goal) -> diag::Result<()> {
    for layer_idx in 0..plan.layers.len() {
        let layer = &plan.layers[layer_idx];
        let kernel = kernels::choose(layer, plan, target, goal)
            .ok_or_else(|| Diagnostic::internal(format!("no kernel computes layer `{}`", layer.name)))?;
        plan.layers[layer_idx].kernel = kernel;
    }
    Ok(())
}

/// Positions of the elements of a row (the last axis) if, sorted, they are evenly spaced.
pub fn row_offsets(view: &View, shape: &Shape) -> Option<Vec<usize>> {
    let offsets = view.offsets(shape.rank() - 1);
    let mut sorted = offsets.clone();
    sorted.sort_unstable();
    let step = sorted.get(1).copied().unwrap_or(1);
    sorted.iter().enumerate().all(|(i, &offset)| offset == i * step).then_some(offsets)
}
