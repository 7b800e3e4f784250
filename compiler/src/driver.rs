//! The whole pipeline on one screen.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ptqc_target_runtimes::Target;
use sha2::{Digest, Sha256};

use crate::calibrate::{Calibrator, Ranges};
use crate::diag::{self, Code, Diagnostic, Diagnostics};
use crate::front::{self, ExternalFiles, FloatRunner, Insides, Model};
use crate::ir::{Checked, Float, Graph, Numerics, Quant};
use crate::kernels;
use crate::lower::{self, Lowered, PlannedVariant};
use crate::plan::{self, CheckedPlan, Goal};
use crate::print::{ArenaMode, Bundle, Interface, Language, TensorInfo, Weights};
use crate::quantize::Settings;
use crate::report::{self, Provenance, Report};
use crate::states::{self, State};
use crate::{optimize, passes, quantize};

/// One sample: an array for each input of the model, row-major.
pub type Sample = Vec<Vec<f32>>;

/// A model after import and passes.
#[derive(Debug)]
pub struct Frontend {
    /// The imported model; executes on real numbers.
    pub model: Model,
    /// Its graph after the passes.
    pub fused: Checked<Graph<Float>>,
    /// How results are rounded. [`load`] chooses ONNX Runtime's way for models that are quantized already, so that they
    /// compute what they computed there, and the native profile for all others.
    pub numerics: Numerics,
}

/// Reads a model and fuses it.
pub fn load(bytes: &[u8], external: &ExternalFiles, pinned: &BTreeMap<String, usize>) -> diag::Result<Frontend> {
    let model = front::load(bytes, external, pinned)?;
    let fused = passes::run(model.graph.clone())?;
    let numerics = if model.is_quantized() { Numerics::Ort } else { Numerics::Native };
    Ok(Frontend { model, fused, numerics })
}

/// Runs the float model over samples and records the range of every tensor. `tick` is called after each sample.
///
/// The result does not depend on the number of threads or on the order in which they finish.
pub fn calibrate(
    model: &Model,
    samples: impl Iterator<Item = diag::Result<Sample>> + Send,
    tick: &(dyn Fn() + Sync),
) -> diag::Result<(Calibrator, u64)> {
    let runner = model.tapped_runner()?;
    let insides = Insides::of(&model.graph, runner.names());
    let names = runner.names().iter().cloned().chain(insides.names());
    let empty = Calibrator::new(names).watching(model.inputs.iter().map(|input| &input.name));
    let samples = Mutex::new((samples, 0u64));
    // Threads of its own: one of a pool would, while it waits, begin other work of the pool on top of this, and so on.
    let results: Vec<diag::Result<Calibrator>> = std::thread::scope(|scope| {
        let run = || calibrate_thread((&runner, &insides), empty.clone(), &samples, tick);
        let threads: Vec<_> = (0..rayon::current_num_threads()).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(thread_died().into()))).collect()
    });
    let mut total = empty;
    for result in results {
        total.merge(&result?);
    }
    let (_, count) = samples.into_inner().map_err(|_| thread_died())?;
    Ok((total, count))
}

fn calibrate_thread<I: Iterator<Item = diag::Result<Sample>>>(
    (runner, insides): (&FloatRunner, &Insides),
    mut calibrator: Calibrator,
    samples: &Mutex<(I, u64)>,
    tick: &(dyn Fn() + Sync),
) -> diag::Result<Calibrator> {
    let mut state = runner.state()?;
    loop {
        let next = {
            let mut samples = samples.lock().map_err(|_| thread_died())?;
            let next = samples.0.next();
            samples.1 += u64::from(next.is_some());
            next
        };
        let Some(sample) = next else { return Ok(calibrator) };
        let tensors = state.run(&sample?)?;
        for (index, values) in tensors.iter().chain(&insides.values(&tensors)).enumerate() {
            calibrator.observe(index, values)?;
        }
        tick();
    }
}

fn thread_died() -> Diagnostic {
    Diagnostic::internal("a calibration thread died")
}

/// The quantized graph, and warnings.
pub fn quantize(
    frontend: &Frontend,
    ranges: &Ranges,
    settings: &Settings,
) -> diag::Result<(Checked<Graph<Quant>>, Diagnostics)> {
    let (graph, mut warnings) = quantize::quantize(&frontend.fused, ranges, settings, frontend.numerics)?;
    warnings.extend(frontend.model.warnings.clone());
    Ok((graph, warnings))
}

/// What a build depends on beside the model and its ranges.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Prefix of all symbols and file names; a legal identifier.
    pub name: String,
    /// How the model is quantized.
    pub settings: Settings,
    /// What the code is for.
    pub target: &'a Target,
    /// What it is written in.
    pub language: Language,
    /// What it shall be best at.
    pub goal: Goal,
    /// Who owns the working memory.
    pub arena: ArenaMode,
    /// Where constants are.
    pub weights: Weights,
    /// Inputs, each with the output that it is at the next inference.
    pub states: Vec<(String, String)>,
    /// Whether Rust code has functions that convert between real numbers and the model's integers.
    pub float_helpers: bool,
    /// The command to repeat the build, without paths of this machine.
    pub command: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
}

/// Every stage of a build, and the files.
#[derive(Debug)]
pub struct Build {
    /// The quantized graph, with all tensors of the model.
    pub quant: Checked<Graph<Quant>>,
    /// The same function of the inputs with less work: what the plan is made from.
    pub optimized: Checked<Graph<Quant>>,
    /// The plan.
    pub plan: CheckedPlan,
    /// The program.
    pub lowered: Lowered,
    /// The facts.
    pub report: Report,
    /// What the files say beside the program.
    pub interface: Interface,
    /// The files: name and text.
    pub bundle: Bundle,
    /// Warnings; never errors.
    pub warnings: Diagnostics,
}

/// From a fused model and its ranges to files. The same arguments give the same bytes on every machine.
pub fn build(frontend: &Frontend, ranges: &Ranges, options: &Options) -> diag::Result<Build> {
    let states = states::resolve(&frontend.model, &options.states)?;
    let ranges = &states::shared_ranges(ranges, &options.states);
    let (quant, mut warnings) = quantize(frontend, ranges, &options.settings)?;
    let quant = states::tied(quant, &states)?;
    let optimized = optimize::run(quant.clone())?;
    let plan = plan::plan(&optimized, &options.language.able(options.target), options.goal)?;
    let variants = options.target.variants.iter().filter_map(|variant| {
        let target = options.language.able(&options.target.with(variant));
        let unit = kernels::vector_unit(&target)?;
        let plan = plan::plan(&optimized, &target, options.goal);
        Some(plan.map(|plan| PlannedVariant { name: variant.name, unit, plan }))
    });
    let variants = variants.collect::<diag::Result<Vec<_>>>()?;
    let lowered = lower::lower(&plan, &variants, &options.name)?;
    let provenance = Provenance {
        target: options.target.name.to_owned(),
        language: options.language,
        numerics: frontend.numerics,
        arena_mode: options.arena.name(),
        model_sha256: options.model_sha256.clone(),
        ranges_sha256: sha256(ranges.to_toml().as_bytes()),
    };
    let report = report::report(&quant, &plan, &lowered, provenance);
    let interface = interface(&plan, &report, options, states);
    let mut bundle = options.language.print(&lowered.program, &interface);
    bundle.insert(format!("{}.report.json", options.name), report.to_json());
    warnings.extend(report.layout_copies.iter().map(|tensor| {
        Diagnostic::warning(Code::LayoutCopy, "this tensor is copied into another layout, which costs time and memory")
            .tensor(tensor)
            .help("a Transpose or Reshape before it could be moved out of the model")
    }));
    Ok(Build { quant, optimized, plan, lowered, report, interface, bundle, warnings })
}

/// What the emitted files say about themselves.
fn interface(plan: &CheckedPlan, report: &Report, options: &Options, states: Vec<State>) -> Interface {
    let tensor = |name: &str, id| {
        let ty = &plan.tensor(id).ty;
        TensorInfo {
            onnx_name: name.to_owned(),
            dims: ty.shape.dims().to_vec(),
            scale: ty.params().map(|params| params.scale.as_f32()),
            zero_point: ty.params().map_or(0, |params| params.zero_point),
        }
    };
    Interface {
        provenance: vec![
            format!("Generated by {}. Do not edit.", report.generator),
            format!("Command: {}", options.command),
            format!("Model:   sha256 {}", report.model_sha256),
            format!("Ranges:  sha256 {}", report.ranges_sha256),
            format!("Target:  {}, numerics profile {}", report.target, report.numerics),
        ],
        facts: vec![
            format!("{} layers, {}", report.layers.len(), report.multiply_accumulates()),
            format!("{} bytes of constants, {} bytes of arena", report.weight_bytes, report.arena.bytes),
            format!("largest accumulator {}", report.largest_accumulator()),
        ],
        inputs: plan.inputs.iter().map(|&id| tensor(&plan.tensor(id).name, id)).collect(),
        outputs: plan.outputs.iter().map(|(name, id)| tensor(name, *id)).collect(),
        states,
        arena: options.arena,
        weights: options.weights.clone(),
        float_helpers: options.float_helpers,
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
