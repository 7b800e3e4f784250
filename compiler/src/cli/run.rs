//! `ptqc run`.

use std::path::PathBuf;

use clap::Args;

use super::data::npy_bytes;
use super::output;
use super::source::{ModelArgs, PrecisionArgs, PreprocessArgs, RangesArgs, open_samples};
use crate::diag;
use crate::driver;
use crate::evaluate::{dequantize, evaluate, quantize_input};
use crate::ir::{DType, Graph, NodeId, Quant};

/// Run the integer model on inputs and write its outputs as .npy files.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    ranges: RangesArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Inputs: a .npy, a .npz (arrays by input name), or a folder of them
    #[arg(long, value_name = "DATA")]
    input: PathBuf,
    /// Folder for the results: input_K.npy (quantized inputs), output_K.npy (quantized outputs) and output_K_real.npy
    /// (real outputs), K counted from 0 in the model's order
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
    /// Calibration samples and inputs are stored alike: convert both. Without it, only --input is converted
    #[arg(long)]
    convert_calib: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Results of all samples for one tensor.
struct Collected {
    file: String,
    dims: Vec<usize>,
    dtype: DType,
    data: Vec<i32>,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> diag::Result<()> {
    let source = args.model.load()?;
    let preprocess = args.preprocess.preprocess();
    let calib_preprocess = if args.convert_calib { preprocess.clone() } else { Default::default() };
    let ranges = args.ranges.load(&source, &calib_preprocess)?;
    let in_model = |problems: diag::Diagnostics| problems.in_file(args.model.model.display());
    let (graph, warnings) =
        driver::quantize(&source.frontend, &ranges, &args.precision.settings()?).map_err(in_model)?;
    super::warn(&in_model(warnings));
    let samples = open_samples(&source.frontend.model, &args.input, &preprocess)?;
    let collect = |file: String, id| {
        let ty = &graph.node(id).value;
        Collected { file, dims: ty.shape.dims().to_vec(), dtype: ty.dtype, data: vec![] }
    };
    let ids: Vec<_> = graph.inputs().iter().copied().chain(graph.outputs().iter().map(|output| output.node)).collect();
    let n_inputs = graph.inputs().len();
    let file =
        |index: usize| if index < n_inputs { format!("input_{index}") } else { format!("output_{}", index - n_inputs) };
    let mut collected: Vec<Collected> = ids.iter().enumerate().map(|(index, &id)| collect(file(index), id)).collect();
    let mut real: Vec<Vec<f32>> = vec![vec![]; graph.outputs().len()];
    let mut count = 0;
    for sample in samples.samples() {
        let sample = sample?;
        let inputs: Vec<Vec<i32>> =
            graph.inputs().iter().zip(&sample).map(|(&id, values)| quantize_input(&graph, id, values)).collect();
        let outputs = evaluate(&graph, &inputs);
        for (index, output) in outputs.iter().enumerate() {
            real[index].extend(dequantize(&graph, graph.outputs()[index].node, output));
        }
        for (tensor, data) in collected.iter_mut().zip(inputs.into_iter().chain(outputs)) {
            tensor.data.extend(data);
        }
        count += 1;
    }
    let mut files: Vec<(String, Vec<u8>)> =
        collected.iter().map(|tensor| (format!("{}.npy", tensor.file), tensor.bytes(count))).collect();
    for (index, values) in real.iter().enumerate() {
        let dims = stacked(&collected[n_inputs + index].dims, count);
        files.push((format!("output_{index}_real.npy"), npy_bytes::<f32>(&dims, values)));
    }
    output::write_arrays(&args.output, &files, args.force)?;
    super::say(&summary(args, &graph, count))
}

fn summary(args: &RunArgs, graph: &Graph<Quant>, count: usize) -> String {
    let mut lines = vec![format!("{count} samples -> {}", args.output.display())];
    for (index, &id) in graph.inputs().iter().enumerate() {
        lines.push(format!("  input_{index}.npy: `{}`, {}", graph.node(id).name, encoding(graph, id)));
    }
    for (index, output) in graph.outputs().iter().enumerate() {
        lines.push(format!("  output_{index}.npy: `{}`, {}", output.name, encoding(graph, output.node)));
        lines.push(format!("  output_{index}_real.npy: the same as float32"));
    }
    lines.join("\n")
}

fn encoding(graph: &Graph<Quant>, id: NodeId) -> String {
    let ty = &graph.node(id).value;
    match ty.params() {
        Some(params) => format!("{}, real = {:?} * (q - {})", ty.dtype, params.scale.as_f32(), params.zero_point)
            .replace("- -", "+ "),
        None => format!("{}, positions", ty.dtype),
    }
}

/// The samples along the first axis: in place of a batch of 1, or before it.
fn stacked(dims: &[usize], count: usize) -> Vec<usize> {
    let sample = if dims.first() == Some(&1) { &dims[1..] } else { dims };
    [&[count], sample].concat()
}

impl Collected {
    fn bytes(&self, count: usize) -> Vec<u8> {
        let dims = stacked(&self.dims, count);
        match self.dtype {
            // Quantized values fit their type.
            DType::I4 | DType::I8 => npy_bytes::<i8>(&dims, &self.data.iter().map(|&q| q as i8).collect::<Vec<_>>()),
            DType::I16 => npy_bytes::<i16>(&dims, &self.data.iter().map(|&q| q as i16).collect::<Vec<_>>()),
            DType::I32 => npy_bytes::<i32>(&dims, &self.data),
        }
    }
}
