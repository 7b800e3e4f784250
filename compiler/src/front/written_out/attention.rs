//! Attention (operator set 23): `Softmax(softcap(scale * Q K') + mask) V`, with caches that come before keys and values,
//! heads that share keys and values, and a causal mask.

use tract_onnx::pb;

use super::{Outcome, Reason, Writer, attribute, input, optional, output};
use crate::front::tensors::{integer, integer_of};

/// Writes out `Attention`.
pub fn attention(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let heads = |name: &str| integer_of(node, name).and_then(|heads| usize::try_from(heads).ok());
    let flat = w.shape(input(node, 0)?)?.len() == 3;
    let q = by_head(w, input(node, 0)?, heads("q_num_heads"))?;
    let k = by_head(w, input(node, 1)?, heads("kv_num_heads"))?;
    let v = by_head(w, input(node, 2)?, heads("kv_num_heads"))?;
    let past = match optional(node, 4) {
        Some(past) => cache_len(w, past)?,
        None => 0,
    };
    let k = cached(w, node, k, (4, 1))?;
    let v = cached(w, node, v, (5, 2))?;
    let (k, v) = (shared(w, k, q.dims[1])?, shared(w, v, q.dims[1])?);
    let keys = w.transpose(&k.name, &[0, 1, 3, 2]);
    let scale = attribute(node, "scale").map_or(1.0 / (q.dims[3] as f32).sqrt(), |scale| scale.f);
    let scale = w.real(&[], [scale]);
    let product = w.emit("MatMul", &[&q.name, &keys], vec![]);
    let scaled = w.emit("Mul", &[&product, &scale], vec![]);
    let capped = capped(w, scaled.clone(), attribute(node, "softcap").map_or(0.0, |softcap| softcap.f));
    let frame = Frame::of(w, node, [q.dims[2], k.dims[2], past])?;
    let masked = masked(w, node, capped.clone(), &frame)?;
    let shares = w.emit("Softmax", &[&masked], vec![integer("axis", -1)]);
    if let Some(shown) = node.output.get(3).filter(|output| w.used.contains(*output)) {
        let step = match integer_of(node, "qk_matmul_output_mode").unwrap_or(0) {
            0 => &scaled,
            1 => &capped,
            2 => &masked,
            _ => &shares,
        };
        w.push("Identity", &[step], shown, vec![]);
    }
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

/// Number of elements of a cache of shape batch, heads, elements, size of a head.
fn cache_len(w: &Writer, past: &str) -> Outcome<usize> {
    match w.shape(past)?[..] {
        [_, _, len, _] => Ok(len),
        ref shape => Err(Reason::Never(format!("its cache has shape {shape:?}"))),
    }
}

/// Behind what the cache holds. The whole is another output of the node.
fn cached(w: &mut Writer, node: &pb::NodeProto, own: ByHead, (port, present): (usize, usize)) -> Outcome<ByHead> {
    let whole = match optional(node, port) {
        None => own,
        Some(past) => {
            let mut dims = own.dims;
            dims[2] += cache_len(w, past)?;
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
    if own == 0 || !heads.is_multiple_of(own) {
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

/// With what the mask says, and what may not be seen taken out.
fn masked(w: &mut Writer, node: &pb::NodeProto, scores: String, frame: &Frame) -> Outcome<String> {
    let mut scores = scores;
    if let Some(mask) = optional(node, 3) {
        let (is_truth, mask) = (w.is_truth(mask), padded(w, mask, frame.keys)?);
        scores = match is_truth {
            true => {
                let endless = w.real(&[], [f32::NEG_INFINITY]);
                w.emit("Where", &[&mask, &scores, &endless], vec![])
            }
            false => w.emit("Add", &[&scores, &mask], vec![]),
        };
    }
    if frame.sees_all() {
        return Ok(scores);
    }
    let batch = frame.lens.as_ref().map_or(1, Vec::len);
    super::reasonable(&[batch, frame.queries, frame.keys])?;
    let at = |flat: usize| {
        let (b, i, j) = (flat / frame.keys / frame.queries, flat / frame.keys % frame.queries, flat % frame.keys);
        if frame.sees(b, i, j) { 0.0 } else { f32::NEG_INFINITY }
    };
    let visible: Vec<f32> = (0..batch * frame.queries * frame.keys).map(at).collect();
    let dims = [batch, 1, frame.queries, frame.keys];
    let visible = w.real(if batch == 1 { &dims[2..] } else { &dims }, visible);
    Ok(w.emit("Add", &[&scores, &visible], vec![]))
}

/// A mask that covers fewer keys covers the first of them. Its frame says that the others are not seen.
fn padded(w: &mut Writer, mask: &str, keys: usize) -> Outcome<String> {
    let mut dims = w.shape(mask)?;
    let given = dims.last().copied().unwrap_or(keys);
    if given == keys {
        return Ok(mask.to_owned());
    }
    let rank = dims.len();
    let Some(missing) = keys.checked_sub(given) else {
        return Err(Reason::Never(format!("its mask covers {given} keys, and there are {keys}")));
    };
    dims[rank - 1] = missing;
    super::reasonable(&dims)?;
    let rest = match w.is_truth(mask) {
        true => w.falsehoods(&dims),
        false => w.real(&dims, vec![0.0; dims.iter().product()]),
    };
    Ok(w.emit("Concat", &[mask, &rest], vec![integer("axis", -1)]))
}

/// Which keys a query may see.
struct Frame {
    queries: usize,
    keys: usize,
    /// Keys that the mask covers.
    covered: usize,
    /// Keys that the cache holds.
    past: usize,
    causal: bool,
    /// How far it sees to the left and to the right.
    window: [Option<i64>; 2],
    /// Keys of each sample of the batch; the others are padding.
    lens: Option<Vec<i64>>,
}

impl Frame {
    fn of(w: &Writer, node: &pb::NodeProto, [queries, keys, past]: [usize; 3]) -> Outcome<Frame> {
        let lens = match optional(node, 6) {
            Some(lens) => Some(w.numbers(lens)?.into_iter().map(|len| len as i64).collect()),
            None => None,
        };
        let window = ["left_window_size", "right_window_size"].map(|name| integer_of(node, name).filter(|&n| n >= 0));
        let causal = integer_of(node, "is_causal").unwrap_or(0) != 0;
        let covered = match optional(node, 3) {
            Some(mask) => w.shape(mask)?.last().copied().unwrap_or(keys),
            None => keys,
        };
        Ok(Frame { queries, keys, covered, past, causal, window, lens })
    }

    fn sees_all(&self) -> bool {
        !self.causal && self.window == [None; 2] && self.lens.is_none() && self.covered >= self.keys
    }

    fn sees(&self, batch: usize, query: usize, key: usize) -> bool {
        let len = self.lens.as_ref().and_then(|lens| lens.get(batch)).copied();
        let before = len.map_or(self.past as i64, |len| len - self.queries as i64);
        let (is_covered, query, key) = (key < self.covered, query as i64 + before, key as i64);
        let [left, right] = self.window;
        is_covered
            && (!self.causal || key <= query)
            && left.is_none_or(|left| query - key <= left)
            && right.is_none_or(|right| key - query <= right)
            && len.is_none_or(|len| key < len)
    }
}
