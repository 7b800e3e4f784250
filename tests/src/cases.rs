//! A small model on its way through the whole compiler, and the checks that hold for every model.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use ptqc::calibrate::{Method, Origin};
use ptqc::driver::{self, Build, Frontend, Options};
use ptqc::evaluate::{dequantize, evaluate, quantize_input};
use ptqc::ir::QuantType;
use ptqc::plan::Goal;
use ptqc::print::{ArenaMode, Language};
use ptqc::program::interpret;
use ptqc_target_runtimes::TARGETS;

use crate::batch::encode;
use crate::case::mixed;
use crate::onnx::{Onnx, numbers};

/// Samples that a case is calibrated with and run on.
const SAMPLES: u64 = 4;

/// A model and how far its integers may be from the float model.
#[derive(Debug, Clone)]
pub struct Case {
    /// A legal C identifier; unique.
    pub name: String,
    /// The model.
    pub model: Onnx,
    /// Sizes of symbolic dimensions.
    pub pinned: BTreeMap<String, usize>,
    /// The largest distance of an output from the float model, in steps of the output.
    pub steps: f64,
    /// Samples are between these.
    pub range: (f32, f32),
    /// What the code shall be best at.
    pub goal: Goal,
    /// The mix of precisions, if it is not 8 bits everywhere; see [`mixed`].
    pub mix: Option<u64>,
    /// The samples; random ones if there are none.
    pub given: Vec<Vec<Vec<f32>>>,
}

/// A case after compilation, with samples and what the evaluator makes of them.
#[derive(Debug)]
pub struct Compiled {
    /// The case's name.
    pub name: String,
    /// The largest distance of an output from the float model, in steps.
    pub steps: f64,
    /// The model as it was read.
    pub frontend: Frontend,
    /// Every stage of the build.
    pub build: Build,
    /// Real samples, after their way through the quantized inputs.
    pub samples: Vec<Vec<Vec<f32>>>,
    /// The same samples, quantized.
    pub inputs: Vec<Vec<Vec<i32>>>,
    /// What the evaluator returns for them.
    pub outputs: Vec<Vec<Vec<i32>>>,
}

impl Case {
    /// A case with the usual bounds: inputs up to 1, and outputs that differ by at most two steps.
    pub fn new(name: &str, model: Onnx) -> Case {
        Case {
            name: name.to_owned(),
            model,
            pinned: BTreeMap::new(),
            steps: 2.0,
            range: (-1.0, 1.0),
            goal: Goal::default(),
            mix: None,
            given: vec![],
        }
    }

    /// With another bound.
    pub fn steps(self, steps: f64) -> Case {
        Case { steps, ..self }
    }

    /// With samples between minus this and this.
    pub fn magnitude(self, magnitude: f32) -> Case {
        self.between(-magnitude, magnitude)
    }

    /// With samples between these.
    pub fn between(self, lo: f32, hi: f32) -> Case {
        Case { range: (lo, hi), ..self }
    }

    /// With another goal.
    pub fn optimized(self, goal: Goal) -> Case {
        Case { goal, ..self }
    }

    /// With other precisions than 8 bits.
    pub fn mixed(self, mix: Option<u64>) -> Case {
        Case { mix, ..self }
    }

    /// With these samples instead of random ones.
    pub fn given(self, given: Vec<Vec<Vec<f32>>>) -> Case {
        Case { given, ..self }
    }

    /// With a size for a symbolic dimension.
    pub fn pin(mut self, name: &str, size: usize) -> Case {
        self.pinned.insert(name.to_owned(), size);
        self
    }

    /// Reads, calibrates and builds the model as C.
    pub fn compile(&self) -> Result<Compiled> {
        self.compile_to(Language::C)
    }

    /// Reads, calibrates and builds the model.
    pub fn compile_to(&self, language: Language) -> Result<Compiled> {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let frontend = driver::load(&self.model.bytes(), &no_files, &self.pinned)?;
        let random = || (0..SAMPLES).map(|seed| self.sample(&frontend, seed)).collect();
        let samples: Vec<Vec<Vec<f32>>> = if self.given.is_empty() { random() } else { self.given.clone() };
        let (calibrator, _) = driver::calibrate(&frontend.model, samples.iter().cloned().map(Ok), &|| {})?;
        let ranges = calibrator.finish(Method::MinMax, Origin::default())?;
        let options = Options {
            settings: self.mix.map(|seed| mixed(&frontend, seed)).unwrap_or_default(),
            name: self.name.clone(),
            target: &TARGETS[0],
            language,
            arena: ArenaMode::Caller,
            goal: self.goal,
            weights: Default::default(),
            states: vec![],
            float_helpers: language == Language::Rust,
            command: String::new(),
            model_sha256: String::new(),
        };
        let build = driver::build(&frontend, &ranges, &options)?;
        let ids = build.quant.inputs();
        let quantize =
            |s: &Vec<Vec<f32>>| ids.iter().zip(s).map(|(&id, x)| quantize_input(&build.quant, id, x)).collect();
        let inputs: Vec<Vec<Vec<i32>>> = samples.iter().map(quantize).collect();
        let restore = |s: &Vec<Vec<i32>>| ids.iter().zip(s).map(|(&id, q)| dequantize(&build.quant, id, q)).collect();
        let samples = inputs.iter().map(restore).collect();
        let outputs = inputs.iter().map(|input| evaluate(&build.quant, input)).collect();
        Ok(Compiled { name: self.name.clone(), steps: self.steps, frontend, build, samples, inputs, outputs })
    }

    fn sample(&self, frontend: &Frontend, seed: u64) -> Vec<Vec<f32>> {
        let inputs = frontend.model.inputs.iter().enumerate();
        let (middle, half) = (self.range.0 / 2.0 + self.range.1 / 2.0, self.range.1 / 2.0 - self.range.0 / 2.0);
        let values =
            |(i, len): (usize, usize)| numbers(100 * seed + i as u64, len).iter().map(|x| middle + x * half).collect();
        inputs.map(|(i, input)| values((i, input.shape.len()))).collect()
    }
}

impl Compiled {
    /// What the float model returns: for each sample all outputs.
    pub fn float_outputs(&self) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut state = self.frontend.model.runner()?.state()?;
        Ok(self.samples.iter().map(|sample| state.run(sample)).collect::<Result<_, _>>()?)
    }

    /// The largest distance between evaluator and float model, in steps of the output.
    pub fn deviation(&self) -> Result<f64> {
        self.deviation_from(|real, _| real)
    }

    /// The same where results of the float model beyond the output's range count as the ends of the range: what samples
    /// become on their way through the quantized inputs can lie outside of what calibration has seen.
    pub fn deviation_within_range(&self) -> Result<f64> {
        self.deviation_from(|real, ty| {
            let Some(params) = ty.params() else { return real };
            let [lo, hi] = [ty.dtype.min(), ty.dtype.max()].map(|end| params.dequantize(end) as f32);
            real.clamp(lo, hi)
        })
    }

    fn deviation_from(&self, expected: impl Fn(f32, &QuantType) -> f32) -> Result<f64> {
        let mut worst = 0.0f64;
        for (outputs, real) in self.outputs.iter().zip(self.float_outputs()?) {
            for ((output, real), integers) in self.build.quant.outputs().iter().zip(real).zip(outputs) {
                let ty = &self.build.quant.node(output.node).value;
                let (name, len) = (&output.name, integers.len());
                ensure!(real.len() == len, "{}: output `{name}` has {len} elements, not {}", self.name, real.len());
                let step = ty.params().map_or(1.0, |params| params.scale.get());
                let values = dequantize(&self.build.quant, output.node, integers);
                for (value, real) in values.iter().zip(&real) {
                    worst = worst.max(f64::from((value - expected(*real, ty)).abs()) / step);
                }
            }
        }
        Ok(worst)
    }

    /// Compares the float model with what another executor returns for the samples: words of all outputs, positions
    /// as integers. Sums may be in another order.
    pub fn check_float(&self, words: &[[u8; 4]]) -> Result<()> {
        let mut words = words.iter();
        for sample in self.float_outputs()? {
            for (output, ours) in self.build.quant.outputs().iter().zip(sample) {
                let is_real = self.build.quant.node(output.node).value.params().is_some();
                let largest = ours.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                for ours in ours {
                    let word = *words.next().context("too few results")?;
                    let theirs = if is_real { f32::from_le_bytes(word) } else { i32::from_le_bytes(word) as f32 };
                    let close = (ours - theirs).abs() <= largest * 1e-4;
                    ensure!(close, "output `{}`: {ours} here, {theirs} there", output.name);
                }
            }
        }
        ensure!(words.next().is_none(), "too many results");
        Ok(())
    }

    /// Whether the program, interpreted, returns what the evaluator does.
    pub fn check_program(&self) -> Result<()> {
        for (inputs, expected) in self.inputs.iter().zip(&self.outputs) {
            let inputs: Vec<Vec<i64>> = inputs.iter().map(|x| x.iter().map(|&q| q.into()).collect()).collect();
            let outputs = interpret(&self.build.lowered.program, &inputs)?;
            let outputs: Vec<Vec<i32>> = outputs.iter().map(|y| y.iter().map(|&q| q as i32).collect()).collect();
            ensure!(
                outputs == *expected,
                "{}: the program returns\n{outputs:?}\nthe evaluator\n{expected:?}",
                self.name
            );
        }
        Ok(())
    }

    /// The bytes that the emitted code has to write.
    pub fn expected_bytes(&self) -> Vec<u8> {
        self.outputs.iter().flat_map(|sample| encode(&self.build.lowered.program.program().outputs, sample)).collect()
    }
}
