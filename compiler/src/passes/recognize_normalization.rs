//! Recognises normalizations that are written out: `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)`, and without
//! the mean `x / sqrt(mean(x^2) + epsilon)`.
//!
//! The two functions of one number in it, the square and what follows the inner mean, may be written in any way: they are
//! recognised by their values.

use crate::ir::{Float, FloatTensor, Graph, NodeId, RealClamp, Shape};
use crate::ops::FloatOp;
use crate::ops::normalize::Normalize;
use crate::ops::unary::{UnaryFn, apply_chain};

/// Runs the pass.
pub fn run(graph: &mut Graph<Float>) -> bool {
    let ids = graph.topological();
    ids.into_iter().filter(|&id| graph.contains(id) && recognize(graph, id).is_some()).count() > 0
}

fn recognize(graph: &mut Graph<Float>, id: NodeId) -> Option<()> {
    let [a, b] = graph.operands(id)[..] else { return None };
    let (clamp, (distance, root)) = match &graph.node(id).op {
        FloatOp::Mul(product) => {
            let mut either = [(a, b), (b, a)].into_iter();
            (product.clamp, either.find_map(|(d, g)| Some((d, root_of_squares(graph, d, g, 1.0)?)))?)
        }
        FloatOp::Div(quotient) => (quotient.clamp, (a, root_of_squares(graph, a, b, -1.0)?)),
        _ => return None,
    };
    let x = centered(graph, distance, &root.axes);
    let gamma = FloatTensor::new(Shape::new(vec![1; graph.node(id).value.rank()]), vec![root.factor]);
    let mut norm = Normalize::new(root.axes.clone(), x.is_some(), root.epsilon, gamma, None)?;
    norm.clamp = clamp;
    let mut origin = vec![];
    let mean = x.map(|_| graph.operands(distance)[1]);
    for node in mean.into_iter().chain(x.map(|_| distance)).chain(root.nodes.iter().copied()) {
        origin = super::joined(origin, graph.node(node).origin.clone());
    }
    graph.set_operands(id, &[x.unwrap_or(distance)]);
    let node = graph.node_mut(id);
    node.op = norm.into();
    node.origin = super::joined(origin, std::mem::take(&mut node.origin));
    Some(())
}

/// What the distances are multiplied with: `factor / sqrt(mean of squares over axes + epsilon)`.
struct Root {
    axes: Vec<usize>,
    epsilon: f32,
    factor: f32,
    /// In the graph's order.
    nodes: [NodeId; 3],
}

/// `gain` to the power of `sign` is what the distances are multiplied with.
fn root_of_squares(graph: &Graph<Float>, distance: NodeId, gain: NodeId, sign: f64) -> Option<Root> {
    let FloatOp::Unary(outer) = &graph.node(gain).op else { return None };
    let [mean_id] = graph.operands(gain)[..] else { return None };
    let FloatOp::Mean(mean) = &graph.node(mean_id).op else { return None };
    let [square_id] = graph.operands(mean_id)[..] else { return None };
    let FloatOp::Unary(inner) = &graph.node(square_id).op else { return None };
    let plain =
        mean.keep_dims && !mean.is_sum && mean.clamp == RealClamp::NONE && graph.operands(square_id) == [distance];
    let scale = square(&inner.chain).filter(|_| plain)?;
    let (slope, shift) = reciprocal_square(|x| apply_chain(&outer.chain, x).powf(sign))?;
    // 1 / sqrt(slope * scale * mean + shift)
    let whole = slope * scale;
    Some(Root {
        axes: mean.axes.clone(),
        epsilon: (shift / whole) as f32,
        factor: (1.0 / whole.sqrt()) as f32,
        nodes: [square_id, mean_id, gain],
    })
}

/// The operand of `x - mean(x)`.
fn centered(graph: &Graph<Float>, distance: NodeId, axes: &[usize]) -> Option<NodeId> {
    let FloatOp::Add(difference) = &graph.node(distance).op else { return None };
    let [x, mean_id] = graph.operands(distance)[..] else { return None };
    let FloatOp::Mean(mean) = &graph.node(mean_id).op else { return None };
    let fits = difference.subtract && difference.clamp == RealClamp::NONE && graph.operands(mean_id) == [x];
    (fits && mean.keep_dims && !mean.is_sum && mean.clamp == RealClamp::NONE && mean.axes == axes).then_some(x)
}

/// `c` if the chain is `c * x^2`.
fn square(chain: &[UnaryFn]) -> Option<f64> {
    let scale = apply_chain(chain, 1.0);
    let is_square = |x: f64| close(apply_chain(chain, x), scale * x * x);
    (scale > 0.0 && [-7.0, -1.0, -0.25, 0.0, 0.5, 3.0, 100.0].into_iter().all(is_square)).then_some(scale)
}

/// `k` and `e` if the function is `1 / sqrt(k * x + e)`.
fn reciprocal_square(function: impl Fn(f64) -> f64) -> Option<(f64, f64)> {
    let line = |x: f64| function(x).powi(-2);
    let slope = (line(9.0) - line(1.0)) / 8.0;
    // Epsilon is seen best where little else is.
    let shift = (line(1e-6) - slope * 1e-6).max(0.0);
    let fits = |x: f64| function(x) > 0.0 && close(line(x), slope * x + shift);
    (slope > 0.0 && [1e-6, 1e-3, 0.25, 1.0, 2.0, 9.0, 1e4].into_iter().all(fits)).then_some((slope, shift))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1e-9)
}
