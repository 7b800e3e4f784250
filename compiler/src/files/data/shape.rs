//! Which arrays fit which model input, and what to type when one does not.

use crate::diag::{Code, Diagnostic, Result};

/// How many samples an array of this shape holds for an input with dimensions `dims`.
///
/// Accepted are `dims` itself (one sample), `[n, dims...]`, and, where the model's batch is 1,
/// `[n, dims[1..]...]` and `dims[1..]` (one sample).
pub fn sample_count(shape: &[usize], dims: &[usize]) -> Option<usize> {
    if shape == dims {
        return Some(1);
    }
    if let ([n, rest @ ..], [1, tail @ ..]) = (shape, dims)
        && rest == tail
    {
        return Some(*n);
    }
    match (shape, dims) {
        (_, [1, tail @ ..]) if shape == tail => Some(1),
        ([n, rest @ ..], _) if rest == dims => Some(*n),
        _ => None,
    }
}

/// [`sample_count`], or a diagnostic. `seen` is the stored shape after the conversions that were asked for.
pub fn fit(stored: &[usize], seen: &[usize], dims: &[usize]) -> Result<usize> {
    match sample_count(seen, dims) {
        Some(0) => {
            let message = format!("an array of shape {stored:?} holds no sample");
            Err(Diagnostic::error(Code::CalibrationEmpty, message)
                .help(format!("store the samples as {}", accepted_shapes(dims)))
                .into())
        }
        Some(count) => Ok(count),
        None => Err(mismatch(stored, seen, dims).into()),
    }
}

/// Number of elements of one sample. Saturates: nothing that large is ever read.
pub fn sample_len(dims: &[usize]) -> usize {
    dims.iter().fold(1, |len, &dim| usize::saturating_mul(len, dim))
}

fn mismatch(stored: &[usize], seen: &[usize], dims: &[usize]) -> Diagnostic {
    let message = format!("an array of shape {stored:?} does not fit the input of shape {dims:?}");
    let mut problem = Diagnostic::error(Code::CalibrationShape, message);
    if stored != seen {
        problem = problem.note(format!("with the channels moved to the front its shape is {seen:?}"));
    }
    match advice(seen, dims) {
        Some(line) => problem.help(line),
        None => problem.help(format!("store the samples as {}", accepted_shapes(dims))),
    }
}

fn advice(shape: &[usize], dims: &[usize]) -> Option<String> {
    if let Some(axes) = fitting_permutation(shape, dims) {
        let axes: Vec<String> = axes.iter().map(usize::to_string).collect();
        return Some(format!("the axes are in another order; in numpy: `x = x.transpose({})`", axes.join(", ")));
    }
    let tail = match dims {
        [1, tail @ ..] => tail,
        _ => dims,
    };
    let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    let fits = elements > 0 && sample_len(tail) > 0 && elements.is_multiple_of(sample_len(tail));
    fits.then(|| {
        let tail: String = tail.iter().map(|dim| format!(", {dim}")).collect();
        format!("if only the axes are divided differently, in numpy: `x = x.reshape(-1{tail})`")
    })
}

/// The order of axes that makes the array fit; channels to the front and to the back are tried first,
/// because with equal sizes several orders fit.
fn fitting_permutation(shape: &[usize], dims: &[usize]) -> Option<Vec<usize>> {
    let rank = shape.len();
    if !(2..=5).contains(&rank) {
        return None;
    }
    let usual = (0..rank).flat_map(|first| {
        let moved = |rotate: fn(&mut [usize])| {
            let mut axes: Vec<usize> = (0..rank).collect();
            rotate(&mut axes[first..]);
            axes
        };
        [moved(|axes| axes.rotate_right(1)), moved(|axes| axes.rotate_left(1))]
    });
    let fits = |axes: &Vec<usize>| {
        let permuted: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        sample_count(&permuted, dims).is_some_and(|count| count > 0)
    };
    // The batch axis stays in front if possible.
    let (keep_batch, other): (Vec<_>, Vec<_>) = usual.partition(|axes| axes[0] == 0);
    keep_batch.into_iter().chain(other).chain(permutations(rank)).find(fits)
}

fn permutations(rank: usize) -> Vec<Vec<usize>> {
    (0..rank).fold(vec![Vec::new()], |shorter, _| {
        let extend = |axes: Vec<usize>| {
            let unused = (0..rank).filter(|axis| !axes.contains(axis)).collect::<Vec<_>>();
            unused.into_iter().map(move |axis| [axes.as_slice(), &[axis]].concat()).collect::<Vec<_>>()
        };
        shorter.into_iter().flat_map(extend).collect()
    })
}

fn accepted_shapes(dims: &[usize]) -> String {
    let list = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match dims {
        [1, tail @ ..] if !tail.is_empty() => format!("[n, {}] for n samples, or [{}] for one", list(tail), list(tail)),
        [1] | [] => "[n] for n samples".to_owned(),
        _ => format!("[n, {0}] for n samples, or [{0}] for one", list(dims)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(shape: &[usize], dims: &[usize]) -> String {
        let problems = fit(shape, shape, dims).unwrap_err();
        let problem = problems.iter().next().unwrap();
        assert_eq!(problem.code, Code::CalibrationShape);
        assert!(problem.message.contains(&format!("{shape:?}")) && problem.message.contains(&format!("{dims:?}")));
        problem.help.clone().unwrap()
    }

    #[test]
    fn four_forms_fit() {
        let image = [1, 3, 4, 5];
        assert_eq!(sample_count(&[1, 3, 4, 5], &image), Some(1));
        assert_eq!(sample_count(&[7, 3, 4, 5], &image), Some(7));
        assert_eq!(sample_count(&[3, 4, 5], &image), Some(1));
        assert_eq!(sample_count(&[7, 1, 3, 4, 5], &image), Some(7));
        assert_eq!(sample_count(&[7, 2, 3], &[2, 3]), Some(7));
        assert_eq!(sample_count(&[2, 3], &[2, 3]), Some(1));
        assert_eq!(sample_count(&[7], &[1]), Some(7));
        assert_eq!(sample_count(&[], &[1]), Some(1));
        assert_eq!(sample_count(&[7], &[]), Some(7));
    }

    #[test]
    fn other_forms_do_not() {
        assert_eq!(sample_count(&[4, 3], &[2, 3]), None);
        assert_eq!(sample_count(&[3], &[2, 3]), None);
        assert_eq!(sample_count(&[7, 2, 3, 4, 5], &[1, 3, 4, 5]), None);
        assert_eq!(sample_count(&[], &[]), Some(1));
    }

    #[test]
    fn swapped_axes_are_recognised() {
        assert!(help(&[9, 4, 5, 3], &[1, 3, 4, 5]).contains("x.transpose(0, 3, 1, 2)"));
        assert!(help(&[9, 3, 4, 4], &[1, 4, 4, 3]).contains("x.transpose(0, 2, 3, 1)"));
        assert!(help(&[4, 5, 3], &[1, 3, 4, 5]).contains("x.transpose(2, 0, 1)"));
        assert!(help(&[10, 1, 6], &[1, 6, 10]).contains("transpose(1, 2, 0)"));
    }

    #[test]
    fn other_mistakes_get_other_advice() {
        assert!(help(&[9, 784], &[1, 1, 28, 28]).contains("x.reshape(-1, 1, 28, 28)"));
        assert!(help(&[9, 7], &[1, 10]).contains("[n, 10] for n samples, or [10] for one"));
        let empty = fit(&[0, 10], &[0, 10], &[1, 10]).unwrap_err();
        assert_eq!(empty.iter().next().unwrap().code, Code::CalibrationEmpty);
    }
}
