//! The integer arithmetic against exact rational arithmetic. Each test states how far a result may be from the real
//! value it stands for: half a step for the rounding, and what the limited precision of the constants adds.

use num_rational::BigRational;
use ptqc::ir::{Clamp, DType, FloatTensor, Interval, Multiplier, Numerics, Params, QuantType, Range, Scale, Shape};
use ptqc::ops::average_pool::mean_multipliers;
use ptqc::ops::curve::Curve;
use ptqc::ops::fixed_sum::{FixedSum, Precision, RealSum};
use ptqc::ops::mul::Mul;
use ptqc::ops::softmax::QSoftmax;
use ptqc::ops::unary::{Table, UnaryFn};
use ptqc::ops::weighted::{Grid, Weighted};
use ptqc::ops::{FloatOperator, Operand, QuantOp, Site};

/// Bits behind the point of the exponentials below.
const PRECISION: i32 = 160;

fn rational(value: f64) -> BigRational {
    BigRational::from_float(value).expect("the value is finite")
}

fn integer(value: i64) -> BigRational {
    BigRational::from_integer(value.into())
}

fn power_of_two(exponent: i32) -> BigRational {
    integer(2).pow(exponent)
}

fn half() -> BigRational {
    power_of_two(-1)
}

fn distance(a: &BigRational, b: &BigRational) -> BigRational {
    if a > b { a - b } else { b - a }
}

fn assert_within(result: i64, exact: &BigRational, bound: &BigRational, what: &dyn std::fmt::Debug) {
    let distance = distance(&integer(result), exact);
    assert!(distance <= *bound, "{result} is {distance} from the exact value, more than {bound}: {what:?}");
}

/// `exp(x)`, for `x` up to 0, with an error far below `2^-100`.
fn exp(x: &BigRational) -> BigRational {
    let cut = |value: BigRational| (value * power_of_two(PRECISION)).round() / power_of_two(PRECISION);
    // exp(x) = exp(x / 2^k)^(2^k); the sum converges quickly for small numbers.
    let mut halvings = 0;
    let mut small = x.clone();
    while small < integer(-1) / integer(4) {
        small /= integer(2);
        halvings += 1;
    }
    let small = cut(small);
    let (mut term, mut sum) = (integer(1), integer(1));
    for n in 1..40 {
        term = cut(term * &small / integer(n));
        sum += &term;
    }
    (0..halvings).fold(sum, |power, _| cut(&power * &power))
}

fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// A positive number whose logarithm is evenly distributed.
fn spread(random: &mut fastrand::Rng, lowest: f64, highest: f64) -> f64 {
    (lowest.ln() + random.f64() * (highest / lowest).ln()).exp()
}

fn params(scale: f64, zero_point: i32) -> Params {
    Params { scale: Scale::new(scale).unwrap(), zero_point }
}

fn random_params(random: &mut fastrand::Rng) -> Params {
    let zero_point = [-128, 127, 0, random.i32(-128..=127)][random.usize(0..4)];
    params(spread(random, 1e-6, 1e3), zero_point)
}

/// `apply(acc)` is `floor(acc * m + 1/2)` for an `m` within `2^(left_shift - 32)` of the factor.
#[test]
fn multipliers_are_as_exact_as_their_mantissa() {
    let mut random = random();
    let special =
        [1e-12, 0.5, 1.0 - 2f64.powi(-33), 1.0, 1.0 + 2f64.powi(-31), 2.0 - 2f64.powi(-40), 1000.5, 2f64.powi(29)];
    let factors: Vec<f64> = special.into_iter().chain((0..2000).map(|_| spread(&mut random, 1e-11, 1e6))).collect();
    for factor in factors {
        let multiplier = Multiplier::new(factor).unwrap();
        let shift = multiplier.left_shift() as i32;
        let exact = integer(multiplier.mantissa().into()) * power_of_two(shift - 31);
        assert!(distance(&exact, &rational(factor)) <= power_of_two(shift - 32), "{factor}");
        assert!(shift == 0 || multiplier.mantissa() >= 1 << 30, "{factor}: a bit of precision is lost");
        for acc in [
            0,
            1,
            -1,
            i32::MAX >> shift,
            i32::MIN >> shift,
            random.i32(..) >> shift,
            random.i32(-9999..9999) >> shift.min(12),
        ] {
            let expected = (integer(acc.into()) * &exact + half()).floor();
            // Results beyond 32 bits are excluded by the bound of the accumulator.
            if expected >= integer(i32::MIN.into()) && expected <= integer(i32::MAX.into()) {
                assert_eq!(integer(multiplier.apply(acc).into()), expected, "{acc} * {factor}");
            }
        }
    }
    for factor in [0.0, -1.0, f64::NAN, f64::INFINITY, 2f64.powi(30)] {
        assert_eq!(Multiplier::new(factor), None);
    }
}

/// The nearest step, except for what `f64` loses in one division.
#[test]
fn quantization_is_nearest() {
    let mut random = random();
    for _ in 0..2000 {
        let params = random_params(&mut random);
        let real = (random.f64() - 0.5) * 400.0 * params.scale.get();
        let exact = rational(real) / rational(params.scale.get()) + integer(params.zero_point.into());
        let q = params.quantize(real, DType::I8);
        assert!((-128..=127).contains(&q));
        if q > -128 && q < 127 {
            assert_within(q.into(), &exact, &(half() + power_of_two(-40)), &(real, params));
        }
    }
}

/// A range is covered to within half a step at either end, and 0 is exact.
#[test]
fn params_cover_their_range() {
    let mut random = random();
    for _ in 0..2000 {
        let magnitude = spread(&mut random, 1e-30, 1e30) as f32;
        let (lo, hi) = (-magnitude * random.f32() * f32::from(random.bool()), magnitude * random.f32());
        let Some(range) = Range::new(lo, hi).filter(|range| range.magnitude() > 0.0) else { continue };
        let params = Params::asymmetric_int8(range).unwrap();
        assert_eq!(params.dequantize(params.quantize(0.0, DType::I8)), 0.0);
        let step = params.scale.get();
        for (end, q) in [(range.min(), -128), (range.max(), 127)] {
            assert!((params.dequantize(q) - f64::from(end)).abs() <= step * 0.501, "{range:?}");
        }
    }
}

/// Entries of a table are correctly rounded: half a step, and what `f64` loses.
#[test]
fn tables_are_correctly_rounded() {
    let sigmoid = |x: &BigRational| {
        let e = exp(&if *x > integer(0) { -x } else { x.clone() });
        let (zero, one) = (integer(0), integer(1));
        if *x > zero { &one / (&one + e) } else { &e / (&one + &e) }
    };
    let tanh = |x: &BigRational| integer(2) * sigmoid(&(x * integer(2))) - integer(1);
    for (scale, zero_point) in [(1e-6, 0), (0.01, -128), (0.05, 3), (0.25, 127), (1.0, -17), (40.0, 0)] {
        let input = params(scale, zero_point);
        let check = |function: UnaryFn, output: Params, exact: &dyn Fn(&BigRational) -> BigRational| {
            let table = Table::new(input, output, |x| function.apply(x));
            for q in -128..=127 {
                let x = rational(input.scale.get()) * integer((q - zero_point).into());
                let y = exact(&x) / rational(output.scale.get()) + integer(output.zero_point.into());
                let y = y.clamp(integer(-128), integer(127));
                assert_within(
                    table.entries[(q + 128) as usize].into(),
                    &y,
                    &(half() + power_of_two(-30)),
                    &(scale, q, &function),
                );
            }
        };
        check(UnaryFn::Sigmoid, Params::unit_interval(), &sigmoid);
        check(UnaryFn::Tanh, Params::symmetric_unit(), &tanh);
        check(UnaryFn::Gated(vec![UnaryFn::Sigmoid]), params(scale, -100), &|x| x * sigmoid(x));
        check(UnaryFn::LeakyRelu { slope: 0.25 }, params(scale, -60), &|x| {
            if *x < integer(0) { x / integer(4) } else { x.clone() }
        });
    }
}

/// A sum is off by half a step, and by `2^-(shift + 1)` for each step of an operand and for the constant.
#[test]
fn sums_are_as_exact_as_their_shift() {
    let mut random = random();
    for round in 0..4000 {
        let output_zero = random.i32(-128..=127);
        let terms: Vec<(f64, i32)> = (0..1 + round % 2)
            .map(|_| (spread(&mut random, 1e-9, 1e4) * if random.bool() { 1.0 } else { -1.0 }, random.i32(-128..=127)))
            .collect();
        let real = RealSum { extra: (random.f64() - 0.5) * spread(&mut random, 1e-6, 1e6), terms };
        let precision = {
            let types = [0, output_zero].map(|zero| QuantType::int8(Shape::new([1]), params(1.0, zero)));
            let operands = vec![&types[0]; real.terms.len()];
            Precision::choose(std::slice::from_ref(&real), &operands, &types[1], Numerics::Native).unwrap()
        };
        assert!(precision.wide || precision.shift >= 14);
        let sum = FixedSum::new(&real, output_zero, precision.shift).unwrap();
        let wide = Clamp { lo: i32::MIN, hi: i32::MAX };
        for q in [[-128, -128], [127, 127], [-128, 127], [random.i32(-128..=127), random.i32(-128..=127)]] {
            let q = &q[..real.terms.len()];
            let steps = |(i, &(ratio, zero)): (usize, &(f64, i32))| rational(ratio) * integer((q[i] - zero).into());
            let exact: BigRational = real.terms.iter().enumerate().map(steps).sum::<BigRational>()
                + rational(real.extra)
                + integer(output_zero.into());
            let moved: i64 = real.terms.iter().zip(q).map(|(&(_, zero), q)| i64::from((q - zero).abs())).sum();
            let bound = half() + integer(moved + 1) * power_of_two(-(precision.shift as i32) - 1) + power_of_two(-30);
            assert_within(sum.apply(q, precision, wide).into(), &exact, &bound, &(&real, q));
            if !precision.wide {
                let products = q.iter().zip(&sum.factors).map(|(&q, &factor)| i64::from(q) * i64::from(factor));
                let partial = products.scan(0, |sum, product| {
                    *sum += product;
                    Some(*sum)
                });
                assert!(partial.chain([sum.offset]).all(|value| i32::try_from(value).is_ok()));
            }
        }
    }
}

/// A product is off by half a step and the error of its multiplier.
#[test]
fn products_are_as_exact_as_their_multiplier() {
    let mut random = random();
    let shape = Shape::new([1]);
    for _ in 0..3000 {
        let (a, b) = (random_params(&mut random), random_params(&mut random));
        let scale = (a.scale.get() * b.scale.get() * spread(&mut random, 1.0, 1e5)).max(1e-30);
        let y = params(scale, random.i32(-128..=127));
        let types = [a, b, y].map(|params| QuantType::int8(shape.clone(), params));
        let op = Mul { clamp: ptqc::ir::RealClamp::NONE };
        let site = Site {
            operands: vec![&types[0], &types[1]],
            result: &types[2],
            weights: DType::I8,
            ranges: &Default::default(),
            numerics: Numerics::Native,
        };
        let op = op.quantize(&site).unwrap();
        let QuantOp::Mul(mul) = &op else { panic!("a product is a Mul") };
        let q = [[-128, -128], [127, -128], [random.i32(-128..=127), random.i32(-128..=127)]][random.usize(0..3)];
        let operands = [0, 1].map(|port| Operand { ty: &types[port], data: &q[port..=port] });
        let product = i64::from(q[0] - a.zero_point) * i64::from(q[1] - b.zero_point);
        let exact = integer(product) * rational(a.scale.get()) * rational(b.scale.get()) / rational(y.scale.get())
            + integer(y.zero_point.into());
        let exact = exact.clamp(integer(-128), integer(127));
        let bound = half() + integer(product.abs() + 1) * power_of_two(mul.multiplier.left_shift() as i32 - 31);
        assert_within(op.evaluate(&operands, &types[2])[0].into(), &exact, &bound, &(a, b, y, q));
    }
}

/// A mean is off by half a step and the error of its multiplier, for every sum that can occur.
#[test]
fn means_are_as_exact_as_their_multiplier() {
    let mut random = random();
    for count in [1, 2, 3, 7, 9, 49, 100, 1000, 4096] {
        let (input_step, output_step) = (spread(&mut random, 1e-3, 1.0), spread(&mut random, 1e-3, 1.0));
        let multipliers =
            mean_multipliers(input_step / output_step, (&[count], DType::I8), DType::I8, Numerics::Native).unwrap();
        let multiplier = multipliers[0];
        let reach = 255 * count as i64;
        for i in 0..=2000 {
            let sum = -reach + 2 * reach * i / 2000;
            let exact = integer(sum) * rational(input_step) / rational(output_step) / integer(count as i64);
            let bound = half() + integer(sum.abs() + 1) * power_of_two(multiplier.left_shift() as i32 - 31);
            assert_within(multiplier.apply(sum as i32).into(), &exact, &bound, &(count, sum));
        }
    }
}

/// A probability is off by half a step, and by what rounding the exponentials does to the sum: for `n` of them
/// `128 * (n + 1) / 2^bits` steps. 1 itself saturates at 255/256.
#[test]
fn softmax_is_as_exact_as_its_exponentials() {
    let mut random = random();
    for terms in [1, 2, 3, 10, 100, 1000] {
        for scale in [1e-5, 0.01, 0.1, 0.7, 5.0] {
            let step = Scale::new(scale).unwrap().get();
            let softmax = QSoftmax::new(0, step, terms).unwrap();
            let exponentials: Vec<BigRational> = (0..256).map(|d| exp(&(rational(-step) * integer(d)))).collect();
            let rows = [
                vec![-128; terms],
                vec![127; terms],
                (0..terms).map(|i| if i == 0 { 127 } else { -128 }).collect(),
                (0..terms).map(|_| random.i32(-128..=127)).collect(),
                (0..terms).map(|_| random.i32(0..=9)).collect::<Vec<i32>>(),
            ];
            for row in rows {
                let max = row.iter().copied().max().unwrap();
                let exact = |x: i32| &exponentials[(max - x) as usize];
                let sum: BigRational = row.iter().map(|&x| exact(x)).sum();
                let bound = half()
                    + integer(128 * (terms as i64 + 1)) * power_of_two(-(softmax.bits as i32))
                    + power_of_two(-20);
                let results = softmax.row(&row.iter().map(|&x| (x, true)).collect::<Vec<_>>());
                for (&x, &y) in row.iter().zip(&results) {
                    let exact = (exact(x) / &sum * integer(256) - integer(128)).min(integer(127));
                    assert_within(y.into(), &exact, &bound, &(terms, scale, x));
                }
            }
        }
    }
}

/// Accumulators of more than 32 bits are multiplied exactly.
#[test]
fn wide_accumulators_are_requantized_exactly() {
    let mut random = random();
    for _ in 0..4000 {
        let multiplier = Multiplier::new(spread(&mut random, 1e-9, 1e3)).unwrap();
        let acc = random.i64(-(1 << 46)..1 << 46) >> random.u32(0..40);
        let factor = integer(multiplier.mantissa().into()) * power_of_two(multiplier.left_shift() as i32 - 31);
        let exact = (integer(acc) * factor + half()).floor();
        assert_eq!(integer(multiplier.apply_wide(acc)), exact, "{acc} {multiplier}");
        if multiplier.accepts(Interval::point(acc)) && i32::try_from(acc).is_ok() {
            assert_eq!(i64::from(multiplier.apply(acc as i32)), multiplier.apply_wide(acc));
        }
    }
}

/// What a curve says of its error is so, and it is small.
#[test]
fn curves_are_as_exact_as_they_say() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let shape = Shape::new([1]);
    let unit = Params::unit_interval().for_type(DType::I16);
    let symmetric = Params::symmetric_unit().for_type(DType::I16);
    assert_eq!((unit.scale.get(), symmetric.scale.get()), (1.0 / 32768.0, 1.0 / 32768.0));
    let swish = move |x: f64| x * sigmoid(x);
    let functions: [(&dyn Fn(f64) -> f64, Params); 3] =
        [(&sigmoid, unit), (&f64::tanh, symmetric), (&swish, params(16.0 / 32767.0, 0))];
    for magnitude in [0.1, 1.0, 4.0, 8.0, 16.0] {
        let input = Params::symmetric(Range::new(-magnitude, magnitude).unwrap(), DType::I16).unwrap();
        for (function, output) in functions {
            for (dtype, output) in [(DType::I16, output), (DType::I8, params(0.0625, 3))] {
                let curve = Curve::new(input, &QuantType::real(shape.clone(), dtype, output), function);
                assert!(curve.error <= 2.0, "{magnitude} {dtype}: {}", curve.error);
                for q in -32768..=32767 {
                    let exact = function(input.dequantize(q)) / output.scale.get() + f64::from(output.zero_point);
                    let exact = exact.clamp(dtype.min().into(), dtype.max().into());
                    assert!((f64::from(curve.at(q)) - exact).abs() <= curve.error + 1e-6, "{magnitude} {dtype} {q}");
                }
            }
        }
    }
}

/// Between 8, 16 and 32 bits a value changes by half a step of the result, and what the factor loses.
#[test]
fn conversions_are_nearest() {
    let mut random = random();
    for _ in 0..2000 {
        let types = [DType::I8, DType::I16, DType::I32];
        let [from, to] = [types[random.usize(..3)], types[random.usize(..2)]];
        let magnitude = spread(&mut random, 1e-3, 1e3) as f32;
        let reach = magnitude * spread(&mut random, 0.5, 8.0) as f32;
        let [x, y] = [(from, magnitude), (to, reach)].map(|(dtype, magnitude)| {
            let range = Range::new(-magnitude * random.f32(), magnitude).unwrap();
            QuantType::real(Shape::new([1]), dtype, Params::covering(range, dtype).unwrap())
        });
        let op = ptqc::ops::unary::convert(&x, &y).unwrap();
        let q = random.i32(from.min()..=from.max());
        let (x_params, y_params) = (x.params().unwrap(), y.params().unwrap());
        let exact = integer(i64::from(q) - i64::from(x_params.zero_point)) * rational(x_params.scale.get())
            / rational(y_params.scale.get())
            + integer(y_params.zero_point.into());
        let exact = exact.clamp(integer(to.min().into()), integer(to.max().into()));
        let result = op.evaluate(&[Operand { ty: &x, data: &[q] }], &y)[0];
        // Factors have at least 14 fractional bits, and more for results of 16 bits.
        let moved = integer(i64::from(q.unsigned_abs()) + 256)
            * match &op {
                QuantOp::Rescale(rescale) => power_of_two(-(rescale.precision.shift as i32) - 1),
                _ => integer(0),
            };
        assert_within(result.into(), &exact, &(half() + moved + power_of_two(-20)), &(from, to, q, &op));
    }
}

/// Probabilities of 16 bits: half a step, and what rounding the exponentials does to the sum.
#[test]
fn softmax_of_16_bits_is_as_exact_as_its_exponentials() {
    let mut random = random();
    for terms in [1, 2, 10, 300] {
        for scale in [1e-5, 3e-4, 0.002] {
            for (output, bits, zero, hi) in [(DType::I16, 15, 0, 32767), (DType::I8, 8, -128, 127)] {
                let softmax = QSoftmax::for_types(0, (DType::I16, scale), terms, output).unwrap();
                let row: Vec<i32> = (0..terms).map(|_| random.i32(-32768..=32767)).collect();
                let max = row.iter().copied().max().unwrap();
                let e: Vec<f64> = row.iter().map(|&x| (-scale * f64::from(max - x)).exp()).collect();
                let sum: f64 = e.iter().sum();
                let one = f64::from(1u32 << bits);
                let bound = 0.5 + one * (terms as f64 + 1.0) * 2.0 / f64::from(1u32 << softmax.bits) + 1e-3;
                for (y, e) in softmax.row(&row.iter().map(|&x| (x, true)).collect::<Vec<_>>()).into_iter().zip(e) {
                    let exact = (e / sum * one + f64::from(zero)).min(hi.into());
                    assert!((f64::from(y) - exact).abs() <= bound, "{terms} {scale} {output}: {y} {exact}");
                }
            }
        }
    }
}

/// Clipping 4-bit weights is never worse than covering the largest, and all of them fit.
#[test]
fn grids_of_four_bits_have_the_least_error() {
    let mut random = random();
    for _ in 0..500 {
        let row: Vec<f32> = (0..random.usize(1..60)).map(|_| (random.f32() - 0.5) * random.f32()).collect();
        let Some(grid) = Grid::of(&row, DType::I4) else { continue };
        let largest = row.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let covering = Grid { scale: Scale::new(f64::from(largest) / 7.0).unwrap(), dtype: DType::I4 };
        let error = |grid: Grid| -> f64 {
            row.iter().map(|&w| (f64::from(w) - grid.scale.get() * f64::from(grid.nearest(w))).powi(2)).sum()
        };
        assert!(error(grid) <= error(covering) * (1.0 + 1e-9));
        assert!(row.iter().all(|&w| (-7..=7).contains(&grid.nearest(w))));
        let fine = Grid::of(&row, DType::I8).unwrap();
        assert!(row.iter().any(|&w| fine.nearest(w).abs() == 127));
    }
}

/// Weights are within half their step, biases within half an accumulator's; a channel that cannot move the result
/// by `2^-17` steps is an exact constant.
#[test]
fn weights_and_biases_are_nearest() {
    let mut random = random();
    for _ in 0..2000 {
        let (input, output) = (random_params(&mut random), random_params(&mut random));
        let magnitude = output.scale.get() / input.scale.get() * spread(&mut random, 1e-12, 1e2);
        let row: Vec<f32> = (0..random.usize(1..20)).map(|_| ((random.f64() - 0.5) * magnitude) as f32).collect();
        let bias = ((random.f64() - 0.5) * output.scale.get() * spread(&mut random, 1e-3, 1e4)) as f32;
        let weights = FloatTensor::new(Shape::new([1, row.len()]), row.clone());
        let weighted = {
            let types = [input, output].map(|params| QuantType::int8(Shape::new([1]), params));
            let site = Site {
                operands: vec![&types[0]],
                result: &types[1],
                weights: DType::I8,
                ranges: &Default::default(),
                numerics: Numerics::Native,
            };
            Weighted::quantize(&weights, &[bias], Clamp::full(DType::I8), &site).unwrap()
        };
        let channel = weighted.channels[0];
        let exact = |x: &[i32]| {
            let products =
                row.iter().zip(x).map(|(&w, x)| rational(f64::from(w)) * integer((x - input.zero_point).into()));
            let real = products.sum::<BigRational>() * rational(input.scale.get()) + rational(f64::from(bias));
            (real / rational(output.scale.get()) + integer(output.zero_point.into())).clamp(integer(-128), integer(127))
        };
        let x: Vec<i32> = row.iter().map(|_| random.i32(-128..=127)).collect();
        let acc: i64 = i64::from(channel.bias)
            + row
                .iter()
                .enumerate()
                .map(|(i, _)| i64::from(weighted.weights[i]) * i64::from(x[i] - input.zero_point))
                .sum::<i64>();
        assert!(channel.bound.lo <= acc.into() && i128::from(acc) <= channel.bound.hi);
        let steps_of_acc = input.scale.get() * f64::from(channel.weight_scale) / output.scale.get();
        // Each weight is off by half a step of weights, the bias by half an accumulator; the multiplier by its own error.
        let moved: i64 = x.iter().map(|x| i64::from((x - input.zero_point).abs())).sum::<i64>() + 1;
        let rounding = steps_of_acc * 0.5 * moved as f64 * (1.0 + 1e-6);
        let multiplier = integer(acc.abs() + 1) * power_of_two(channel.multiplier.left_shift() as i32 - 32);
        let bound = half() + rational(rounding) + multiplier + power_of_two(-16);
        assert_within(weighted.finish(0, acc).into(), &exact(&x), &bound, &(&row, bias, input, output));
    }
}

/// As ONNX Runtime's CPU kernels requantize: a product of 32-bit floats, ties to even. Sums close to ties, where exact
/// products round otherwise.
#[test]
fn products_in_single_precision_round_as_floats() {
    let mut random = fastrand::Rng::with_seed(24);
    let mut otherwise = 0;
    for _ in 0..200 {
        let factor = 10f32.powf(random.f32() * 4.0 - 5.0);
        let shift = Multiplier::exact_shift(std::iter::once(f64::from(factor)));
        let most = (250.0 / factor).min(16_000_000.0) as i64;
        let exact = Multiplier::exact(f64::from(factor), shift, most).expect("the factor is in range");
        let single = exact.in_single_precision();
        for _ in 0..2000 {
            let tie = f64::from(random.i32(-249..249)) + 0.5;
            let acc = ((tie / f64::from(factor)).round() as i64 + random.i64(-1..=1)).clamp(-most, most);
            let float = (acc as f32 * factor).round_ties_even() as i64;
            assert_eq!(single.apply_wide(acc), float, "{acc} times {factor:e}");
            assert_eq!(i64::from(single.apply(acc as i32)), float, "{acc} times {factor:e}");
            otherwise += u32::from(exact.apply_wide(acc) != float);
        }
    }
    assert!(otherwise > 100, "only {otherwise} products come close enough to ties");
}
