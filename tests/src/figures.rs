//! What models cost on each target: measured as `ptqc bench` measures, and kept in `tests/figures`, one file for each
//! target, so that a change that makes code slower or larger is seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ptqc::calibrate::Ranges;
use ptqc::driver::{Build, Frontend};
use ptqc::figures::Figures;
use ptqc::measure::{self, Setup, toolchain};
use ptqc::print::ArenaMode;
use ptqc_target_runtimes::{Runner, TARGETS, Target};
use serde::{Deserialize, Serialize};

use crate::case;
use crate::real::RealModel;

/// Targets whose figures are kept: those whose code an emulator runs, so that counts are the same on every machine.
/// Cortex-M7 has the code of Cortex-M4.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    let emulated = |target: &&Target| match target.runner {
        Runner::User { native, .. } => ["arm", "aarch64"].contains(&native),
        Runner::Board(_) => target.name != "cortex-m7",
    };
    TARGETS.iter().filter(emulated)
}

/// Models whose figures are kept. The first is part of the repository; the others are measured where they are present.
pub const MODELS: [&str; 7] =
    ["digits", "autoencoder_ad", "dscnn_kws", "mbv2_cifar", "mobilenetv1_vww", "resnet8_cifar10", "sww"];

/// A model that is ready to be built for any target.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    frontend: Frontend,
    ranges: Ranges,
    sample: Vec<f32>,
}

/// What is kept of a model's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Executed instructions of an inference.
    pub instructions: u64,
    /// Bytes of code, the library's included.
    pub code: u64,
    /// Bytes of constants.
    pub weights: u64,
    /// Bytes of working memory.
    pub arena: u64,
    /// Bytes of stack.
    pub stack: u64,
}

/// A file of kept figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Program and version of the compiler: another one makes other code.
    pub compiler: String,
    /// Figures of each model.
    pub models: BTreeMap<String, Kept>,
}

impl Subject {
    /// Loads and calibrates a model; `None` if it is absent.
    pub fn load(name: &str) -> Result<Option<Subject>> {
        let found = crate::real::MODELS.iter().find(|model| model.name == name);
        let files = match found {
            Some(model) => RealModel::model(model).map(|file| Ok::<_, anyhow::Error>((file, model.data(model.calib)?))),
            None => {
                let folder = repository()?.join("examples").join(name);
                Some(Ok((folder.join(format!("{name}.onnx")), folder.join("calib.npy"))))
            }
        };
        let Some((model, calib)) = files.transpose()? else { return Ok(None) };
        let frontend = case::load(&std::fs::read(model)?)?;
        let samples = case::open_samples(&frontend, &calib, Default::default())?;
        let ranges = case::calibrate(&frontend, samples.samples())?;
        let sample = samples.samples().next().context("there is a sample")??.swap_remove(0);
        drop(samples);
        Ok(Some(Subject { name: name.to_owned(), frontend, ranges, sample }))
    }

    /// Builds it for a target.
    pub fn build(&self, target: &Target) -> Result<Build> {
        case::build(&self.frontend, &self.ranges, &self.name, target, ArenaMode::Static)
    }

    /// Measures it with the target's usual compiler.
    pub fn measure(&self, build: &Build, target: &Target) -> Result<Figures> {
        let sample = case::quantize_samples(&build.quant, &[vec![self.sample.clone()]]).remove(0);
        let compiler = &target.compilers[0];
        let setup = Setup { build, target, compiler, rustc: None, flags: &["-O2".to_owned()], sample: &sample };
        Ok(measure::measure(&setup)?)
    }
}

impl Kept {
    /// What is kept of figures.
    pub fn of(figures: &Figures) -> Kept {
        Kept {
            instructions: figures.instructions.unwrap_or(0),
            code: figures.flash.code + figures.flash.library,
            weights: figures.flash.weights,
            arena: figures.ram.arena,
            stack: figures.ram.stack,
        }
    }

    /// Names and numbers.
    pub fn numbers(&self) -> [(&'static str, u64); 5] {
        let Kept { instructions, code, weights, arena, stack } = *self;
        [("instructions", instructions), ("code", code), ("weights", weights), ("arena", arena), ("stack", stack)]
    }
}

impl File {
    /// The file of a target, if there is one.
    pub fn read(target: &Target) -> Result<Option<File>> {
        let path = path(target)?;
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(toml::from_str(&std::fs::read_to_string(path)?)?))
    }

    /// Writes the file of a target: a line for each model, so that a difference reads well.
    pub fn write(&self, target: &Target) -> Result<()> {
        let mut text = format!(
            "# What models cost on {}, measured with default options and -O2: executed instructions, and bytes.\n\
             # `cargo bench -p ptqc-tests --bench figures` writes this file.\ncompiler = {:?}\n\n[models]\n",
            target.name, self.compiler
        );
        for (model, kept) in &self.models {
            let fields = kept.numbers().map(|(name, number)| format!("{name} = {number}"));
            text += &format!("{model} = {{ {} }}\n", fields.join(", "));
        }
        let path = path(target)?;
        std::fs::create_dir_all(path.parent().context("the file is in a folder")?)?;
        Ok(std::fs::write(path, text)?)
    }
}

/// Program and version of a target's usual compiler, as figures name it; `None` if something is not installed.
pub fn compiler(target: &Target) -> Result<Option<String>> {
    let compiler = &target.compilers[0];
    if !toolchain::missing(target, compiler).is_empty() {
        return Ok(None);
    }
    Ok(Some(toolchain::version(Path::new(compiler.program))?))
}

fn path(target: &Target) -> Result<PathBuf> {
    Ok(repository()?.join("tests/figures").join(format!("{}.toml", target.name)))
}

fn repository() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in a workspace")
}
