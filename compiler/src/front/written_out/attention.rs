//! Attention (operator set 23): `Softmax(softcap(scale * Q K') + mask) V`, with caches that come before keys and values,
//! heads that share keys and values, and a causal mask.

use tract_onnx::pb;

use super::{Outcome, Reason, Writer, attribute, input, optional, output};
use crate::front::tensors::{integer, integer_of};

/// Writes out `Attention`.
pub fn attention(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    refuse(w, node)?;
    let heads = |name: &str| integer_of(node, name).and_then(|heads| usize::try_from(heads).ok());
    let flat = w.shape(input(node, 0)?)?.len() == 3;
    let q = by_head(w, input(node, 0)?, heads("q_num_heads"))?;
    let k = by_head(w, input(node, 1)?, heads("kv_num_heads"))?;
    let v = by_head(w, input(node, 2)?, heads("kv_num_heads"))?;
    let past = match optional(node, 4) {
        Some(past) => w.shape(past)?[2],
        None => 0,
    };
    let k = cached(w, node, k, (4, 1))?;
    let v = cached(w, node, v, (5, 2))?;
    let (k, v) = (shared(w, k, q.dims[1])?, shared(w, v, q.dims[1])?);
    let keys = w.transpose(&k.name, &[0, 1, 3, 2]);
    let scale = attribute(node, "scale").map_or(1.0 / (q.dims[3] as f32).sqrt(), |scale| scale.f);
    let scale = w.real(&[], [scale]);
    let scores = w.emit("MatMul", &[&q.name, &keys], vec![]);
    let scores = w.emit("Mul", &[&scores, &scale], vec![]);
    let scores = capped(w, scores, attribute(node, "softcap").map_or(0.0, |softcap| softcap.f));
    let scores = masked(w, node, scores, [q.dims[2], k.dims[2], past])?;
    let shares = w.emit("Softmax", &[&scores], vec![integer("axis", -1)]);
    if !flat {
        w.push("MatMul", &[&shares, &v.name], output(node), vec![]);
        return Ok(());
    }
    let y = w.emit("MatMul", &[&shares, &v.name], vec![]);
    let y = w.transpose(&y, &[0, 2, 1, 3]);
    let dims = [q.dims[0], q.dims[2], q.dims[1] * v.dims[3]].map(|size| size as i64);
    let shape = w.integers(&[3], &dims);
    w.push("Reshape", &[&y, &shape], output(node), vec![]);
    Ok(())
}

fn refuse(w: &Writer, node: &pb::NodeProto) -> Outcome {
    let never = |what: &str| Err(Reason::Never(what.to_owned()));
    let window = |name: &str| integer_of(node, name).unwrap_or(-1) >= 0;
    if optional(node, 6).is_some() {
        return never("its input nonpad_kv_seqlen is used");
    }
    if node.output.get(3).is_some_and(|output| w.used.contains(output)) {
        return never("its output qk_matmul_output is used");
    }
    if window("left_window_size") || window("right_window_size") {
        return never("it has a sliding window");
    }
    Ok(())
}

/// A tensor of shape batch, heads, elements, size of a head.
struct ByHead {
    name: String,
    dims: [usize; 4],
}

fn by_head(w: &mut Writer, x: &str, heads: Option<usize>) -> Outcome<ByHead> {
    match (&w.shape(x)?[..], heads) {
        (&[batch, heads, len, size], _) => Ok(ByHead { name: x.to_owned(), dims: [batch, heads, len, size] }),
        (&[batch, len, all], Some(heads)) if heads > 0 && all % heads == 0 => {
            let dims = [batch, heads, len, all / heads];
            let apart = w.reshape(x, &[batch, len, heads, all / heads]);
            Ok(ByHead { name: w.transpose(&apart, &[0, 2, 1, 3]), dims })
        }
        (shape, _) => Err(Reason::Never(format!("an operand has shape {shape:?}"))),
    }
}

/// Behind what the cache holds. The whole is another output of the node.
fn cached(w: &mut Writer, node: &pb::NodeProto, own: ByHead, (port, present): (usize, usize)) -> Outcome<ByHead> {
    let whole = match optional(node, port) {
        None => own,
        Some(past) => {
            let mut dims = own.dims;
            dims[2] += w.shape(past)?[2];
            ByHead { name: w.emit("Concat", &[past, &own.name], vec![integer("axis", 2)]), dims }
        }
    };
    if let Some(present) = node.output.get(present).filter(|present| w.used.contains(*present)) {
        w.push("Identity", &[&whole.name], present, vec![]);
    }
    Ok(whole)
}

/// Each head as often as query heads share it.
fn shared(w: &mut Writer, x: ByHead, heads: usize) -> Outcome<ByHead> {
    let [batch, own, len, size] = x.dims;
    if own == heads {
        return Ok(x);
    }
    if own == 0 || heads % own != 0 {
        return Err(Reason::Never(format!("{heads} heads cannot share {own}")));
    }
    let indices: Vec<i64> = (0..heads).map(|head| (head / (heads / own)) as i64).collect();
    let indices = w.integers(&[heads], &indices);
    Ok(ByHead {
        name: w.emit("Gather", &[&x.name, &indices], vec![integer("axis", 1)]),
        dims: [batch, heads, len, size],
    })
}

/// `cap * tanh(scores / cap)`.
fn capped(w: &mut Writer, scores: String, cap: f32) -> String {
    if cap <= 0.0 {
        return scores;
    }
    let cap = w.real(&[], [cap]);
    let ratio = w.emit("Div", &[&scores, &cap], vec![]);
    let bent = w.emit("Tanh", &[&ratio], vec![]);
    w.emit("Mul", &[&bent, &cap], vec![])
}

/// With what the mask says, and what comes later taken out.
fn masked(w: &mut Writer, node: &pb::NodeProto, scores: String, [queries, keys, past]: [usize; 3]) -> Outcome<String> {
    let mut scores = scores;
    let endless = w.real(&[], [f32::NEG_INFINITY]);
    if let Some(mask) = optional(node, 3) {
        let given = w.shape(mask)?.last().copied().unwrap_or(0);
        if given != keys {
            return Err(Reason::Never(format!("its mask covers {given} of {keys} keys")));
        }
        scores = match w.is_truth(mask) {
            true => w.emit("Where", &[mask, &scores, &endless], vec![]),
            false => w.emit("Add", &[&scores, mask], vec![]),
        };
    }
    if integer_of(node, "is_causal").unwrap_or(0) == 0 {
        return Ok(scores);
    }
    let visible =
        (0..queries).flat_map(|i| (0..keys).map(move |j| if j <= i + past { 0.0 } else { f32::NEG_INFINITY }));
    let causal = w.real(&[queries, keys], visible.collect::<Vec<f32>>());
    Ok(w.emit("Add", &[&scores, &causal], vec![]))
}
