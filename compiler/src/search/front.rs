//! Which points are worth a choice.

use super::Point;

/// Marks the points that no other beats: better in one respect and worse in none.
pub fn pareto(points: &mut [Point]) {
    let values: Vec<[f64; 4]> = points.iter().map(values).collect();
    for (index, point) in points.iter_mut().enumerate() {
        let beaten = |other: &usize| dominates(&values[*other], &values[index]);
        // Of equal points the first stands for all.
        let same = |other: &usize| *other < index && values[*other] == values[index];
        point.on_front = !(0..values.len()).any(|other| beaten(&other) || same(&other));
    }
}

/// Smaller is better in all.
fn values(point: &Point) -> [f64; 4] {
    let loss = point.score.metric.map_or(point.score.relative_rmse, |metric| -metric);
    [loss, point.flash as f64, point.ram as f64, point.cycles as f64]
}

fn dominates(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b) && a != b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domination_is_strict_in_one_respect() {
        assert!(dominates(&[0.0, 1.0, 1.0, 1.0], &[0.0, 1.0, 2.0, 1.0]));
        assert!(!dominates(&[0.0, 1.0, 1.0, 1.0], &[0.0, 1.0, 1.0, 1.0]));
        assert!(!dominates(&[0.0, 3.0, 1.0, 1.0], &[0.0, 1.0, 2.0, 1.0]));
    }
}
