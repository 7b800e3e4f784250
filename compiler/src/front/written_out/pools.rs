//! Pooling by a norm: `(sum of |x|^p)^(1/p)` over windows, for `p` 1 and 2.

use tract_onnx::pb;

use super::{Outcome, Reason, Writer, attribute, input, optional, output};
use crate::front::tensors::integer_of;

/// A window has at most so many elements: each becomes a slice.
const MAX_TAPS: i64 = 1024;

/// The reduction that the attribute `p` means.
pub fn norm(node: &pb::NodeProto) -> Outcome<&'static str> {
    let p = attribute(node, "p").map_or(2.0, |p| if p.f != 0.0 { p.f } else { p.i as f32 });
    match p {
        1.0 => Ok("ReduceL1"),
        2.0 => Ok("ReduceL2"),
        _ => Err(Reason::Never(format!("its p is {p}; 1 and 2 are supported"))),
    }
}

/// Over all spatial axes.
pub fn global_lp_pool(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let x = input(node, 0)?;
    let axes: Vec<i64> = (2..w.shape(x)?.len() as i64).collect();
    w.reduce(norm(node)?, x, &axes, true, output(node));
    Ok(())
}

/// For each tap of the window the elements that it sees, next to each other along a new axis, which is reduced. Padding
/// adds nothing to a sum.
pub fn lp_pool(w: &mut Writer, node: &pb::NodeProto) -> Outcome {
    let x = input(node, 0)?;
    let norm = norm(node)?;
    if w.opset < 11 {
        return Err(Reason::Never("the model has an operator set below 11".to_owned()));
    }
    let shape = w.shape(x)?;
    let spatial: Vec<i64> = shape.iter().skip(2).map(|&size| size as i64).collect();
    let window = Window::of(node, &spatial)?;
    let rank = spatial.len();
    let amounts = [&[0, 0][..], &window.before, &[0, 0], &window.after].concat();
    let x = match amounts.iter().all(|&amount| amount == 0) {
        true => x.to_owned(),
        false => {
            let amounts = w.integers(&[amounts.len()], &amounts);
            w.emit("Pad", &[x, &amounts], vec![])
        }
    };
    let axes: Vec<i64> = (2..2 + rank as i64).collect();
    let mut parts = vec![];
    for tap in 0..window.taps()? {
        let mut rest = tap;
        let mut bounds = vec![(0, 0, 0); rank];
        for axis in (0..rank).rev() {
            let start = rest % window.kernel[axis] * window.dilation[axis];
            bounds[axis] = (start, window.sizes[axis], window.stride[axis]);
            rest /= window.kernel[axis];
        }
        let part = w.slice(&x, &axes, &bounds);
        parts.push(w.unsqueeze(&part, 0));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let taps = w.emit("Concat", &parts, vec![crate::front::tensors::integer("axis", 0)]);
    w.reduce(norm, &taps, &[0], false, output(node));
    Ok(())
}

/// A window whose padding makes room for all results.
struct Window {
    kernel: Vec<i64>,
    stride: Vec<i64>,
    dilation: Vec<i64>,
    before: Vec<i64>,
    after: Vec<i64>,
    /// Of the result.
    sizes: Vec<i64>,
}

impl Window {
    /// Number of taps.
    fn taps(&self) -> Outcome<i64> {
        let taps = self.kernel.iter().try_fold(1i64, |taps, &size| taps.checked_mul(size));
        let taps = taps.filter(|&taps| taps <= MAX_TAPS);
        taps.ok_or_else(|| Reason::Never(format!("its window has more than {MAX_TAPS} elements")))
    }

    fn of(node: &pb::NodeProto, spatial: &[i64]) -> Outcome<Window> {
        let rank = spatial.len();
        let ints = |name: &str, len: usize, default: i64| {
            let values = attribute(node, name).map_or(vec![default; len], |attribute| attribute.ints.clone());
            let fits = values.len() == len && values.iter().all(|value| (default..=1 << 20).contains(value));
            if fits { Ok(values) } else { Err(Reason::Never(format!("its attribute {name} is {values:?}"))) }
        };
        let (kernel, stride) = (ints("kernel_shape", rank, 1)?, ints("strides", rank, 1)?);
        let (dilation, pads) = (ints("dilations", rank, 1)?, ints("pads", 2 * rank, 0)?);
        let (mut before, mut after) = (pads[..rank].to_vec(), pads[rank..].to_vec());
        let auto_pad = attribute(node, "auto_pad").map_or(&b""[..], |attribute| &attribute.s[..]);
        let ceil = integer_of(node, "ceil_mode").unwrap_or(0) != 0;
        let mut sizes = vec![];
        for axis in 0..rank {
            let span = (kernel[axis] - 1) * dilation[axis] + 1;
            let same = matches!(auto_pad, b"SAME_UPPER" | b"SAME_LOWER");
            let size = if same {
                let size = (spatial[axis] + stride[axis] - 1) / stride[axis];
                let total = ((size - 1) * stride[axis] + span - spatial[axis]).max(0);
                before[axis] = if auto_pad == b"SAME_UPPER" { total / 2 } else { total - total / 2 };
                size
            } else {
                let room = spatial[axis] + before[axis] + after[axis] - span;
                let size = room / stride[axis] + 1 + i64::from(ceil && room % stride[axis] != 0);
                // No window begins in the padding behind.
                if ceil && (size - 1) * stride[axis] >= spatial[axis] + before[axis] { size - 1 } else { size }
            };
            if size < 1 || span > spatial[axis] + before[axis] + after[axis] && !same && !ceil {
                return Err(Reason::Never("its window is larger than its operand".to_owned()));
            }
            after[axis] = ((size - 1) * stride[axis] + span - spatial[axis] - before[axis]).max(0);
            sizes.push(size);
        }
        if optional(node, 0).is_none() || rank == 0 {
            return Err(Reason::Never("its operand has no spatial axes".to_owned()));
        }
        Ok(Window { kernel, stride, dilation, before, after, sizes })
    }
}
