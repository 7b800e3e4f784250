//! Real models with real data. They are not part of the repository: they lie in a folder `shared` beside it, or where
//! `PTQC_SHARED` says, and whatever uses them says so when they are absent.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use ptqc::cli::data::Preprocess;
use serde::Deserialize;

use crate::toolchain;

/// A model, its data, and what others reach on the same samples.
#[derive(Debug, Clone, Copy)]
pub struct RealModel {
    /// File name of the model without `.onnx`.
    pub name: &'static str,
    /// Calibration samples.
    pub calib: &'static str,
    /// Evaluation samples.
    pub eval: &'static str,
    /// Labels of the evaluation samples.
    pub labels: &'static str,
    /// How stored evaluation samples become what the model wants.
    pub convert: Convert,
    /// Arguments of `ptqc eval` that choose the metric.
    pub metric: &'static [&'static str],
    /// The best metric of the static int8 models that others make of it (onnxruntime's quantizer with four calibration
    /// settings; the published int8 file where there is one).
    pub best_of_others: f64,
}

/// A conversion of stored samples; see [`Preprocess`].
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    scale: f32,
    zero_point: f32,
    mean: &'static [f32],
    std: &'static [f32],
    nhwc_to_nchw: bool,
}

/// What `ptqc eval --json` prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Evaluation {
    /// Number of samples.
    pub samples: usize,
    /// Name of the metric.
    pub metric: String,
    /// Metric of the float model.
    pub float: f64,
    /// Metric of the integer model.
    pub integer: f64,
    /// Share of samples with the largest output at the same position.
    pub agreement: f64,
    /// Root mean square difference of the outputs, relative to the float model's.
    pub relative_rmse: f64,
}

const AS_STORED: Convert = Convert { scale: 1.0, zero_point: 0.0, mean: &[], std: &[], nhwc_to_nchw: false };
const UNIT: Convert = Convert { scale: 1.0 / 255.0, ..AS_STORED };
const CIFAR: (&str, &str) = ("cifar10_eval_u8.npy", "cifar10_eval_labels.npy");
const NORMALISED: Convert = Convert {
    scale: 1.0 / 255.0,
    mean: &[0.4914, 0.4822, 0.4465],
    std: &[0.2470, 0.2435, 0.2616],
    nhwc_to_nchw: true,
    ..AS_STORED
};
const AUC_0: &[&str] = &["--metric", "auc", "--score", "0"];

/// The models of which every operator is supported.
pub static MODELS: [RealModel; 11] = [
    RealModel {
        name: "resnet8_cifar10",
        calib: "cifar10_calib.npy",
        eval: CIFAR.0,
        labels: CIFAR.1,
        convert: AS_STORED,
        metric: &[],
        best_of_others: 0.7500,
    },
    RealModel {
        name: "dscnn_kws",
        calib: "kws_calib.npy",
        eval: "kws_eval_i8.npy",
        labels: "kws_eval_labels.npy",
        convert: Convert { scale: 0.584_702_9, zero_point: 83.0, ..AS_STORED },
        metric: &[],
        best_of_others: 0.9237,
    },
    RealModel {
        name: "mobilenetv1_vww",
        calib: "vww_calib.npy",
        eval: "vww_eval_u8.npy",
        labels: "vww_eval_labels.npy",
        convert: UNIT,
        metric: &["--metric", "auc"],
        best_of_others: 0.9626,
    },
    RealModel {
        name: "autoencoder_ad",
        calib: "ad_calib.npy",
        eval: "ad_eval.npy",
        labels: "ad_eval_labels.npy",
        convert: AS_STORED,
        metric: &["--metric", "reconstruction-auc"],
        best_of_others: 0.8115,
    },
    RealModel {
        name: "sww",
        calib: "sww_calib.npy",
        eval: "sww_eval.npy",
        labels: "sww_eval_labels.npy",
        convert: AS_STORED,
        metric: AUC_0,
        best_of_others: 1.0,
    },
    RealModel {
        name: "sww_bn",
        calib: "sww_calib.npy",
        eval: "sww_eval.npy",
        labels: "sww_eval_labels.npy",
        convert: AS_STORED,
        metric: AUC_0,
        best_of_others: 1.0,
    },
    RealModel { name: "digits_cnn", best_of_others: 0.9899, ..DIGITS },
    RealModel { name: "digits_cnn_dynamo", best_of_others: 0.9899, ..DIGITS },
    RealModel {
        name: "tabular_mlp",
        calib: "cancer_calib.npy",
        eval: "cancer_eval.npy",
        labels: "cancer_eval_labels.npy",
        convert: AS_STORED,
        metric: &[],
        best_of_others: 0.9726,
    },
    RealModel { name: "mbv2_cifar", ..MBV2 },
    RealModel { name: "mbv2_cifar_dynamo", ..MBV2 },
];

/// Models that are compiled and executed like the others, and have no row among the figures.
pub static MORE_MODELS: [RealModel; 6] = [
    RealModel { name: "digits_transformer", ..DIGITS },
    RealModel { name: "digits_transformer_dynamo", ..DIGITS },
    RealModel { name: "digits_gru", ..DIGITS },
    RealModel { name: "digits_gru_dynamo", ..DIGITS },
    RealModel { name: "unet_resize", ..SEGMENTS },
    RealModel { name: "unet_resize_dynamo", ..SEGMENTS },
];

/// All models.
pub fn all() -> impl Iterator<Item = &'static RealModel> {
    MODELS.iter().chain(&MORE_MODELS)
}

const SEGMENTS: RealModel = RealModel {
    name: "",
    calib: "seg32_calib.npy",
    eval: "seg32_eval.npy",
    labels: "seg32_eval_mask.npy",
    convert: AS_STORED,
    metric: &[],
    best_of_others: 0.7959,
};

const DIGITS: RealModel = RealModel {
    name: "",
    calib: "digits_calib.npy",
    eval: "digits_eval.npy",
    labels: "digits_eval_labels.npy",
    convert: AS_STORED,
    metric: &[],
    best_of_others: 0.9899,
};

const MBV2: RealModel = RealModel {
    name: "",
    calib: "cifar10n_calib.npy",
    eval: CIFAR.0,
    labels: CIFAR.1,
    convert: NORMALISED,
    metric: &[],
    best_of_others: 0.7395,
};

impl RealModel {
    /// The model's file, if it is there.
    pub fn model(&self) -> Option<PathBuf> {
        Some(shared()?.join("models").join(format!("{}.onnx", self.name))).filter(|path| path.is_file())
    }

    /// A file of data.
    pub fn data(&self, file: &str) -> Result<PathBuf> {
        Ok(shared().context("there is no folder of real data")?.join("data").join(file))
    }

    /// The metric that the integer model has to reach: the best of others less a margin.
    ///
    /// Two models are apart. The raw input of `tabular_mlp` needs more than the 8 bits that an int8 input has; others
    /// keep its normalisation in float. On `autoencoder_ad` noise raises the metric (every int8 model of others is
    /// above float, the coarsest most), so the float model is the measure there.
    pub fn wanted_metric(&self, margin: f64) -> f64 {
        match self.name {
            "tabular_mlp" => 0.70,
            "autoencoder_ad" => 0.8033,
            _ => self.best_of_others - margin,
        }
    }

    /// Runs `ptqc eval` over the whole evaluation set, with the default options and `more`.
    pub fn evaluate(&self, ptqc: &Path, more: &[&str]) -> Result<Evaluation> {
        let model = self.model().context("the model is absent")?;
        let mut command = Command::new(ptqc);
        command
            .arg("eval")
            .arg(model)
            .arg("--calib")
            .arg(self.data(self.calib)?)
            .arg("--data")
            .arg(self.data(self.eval)?);
        command.arg("--labels").arg(self.data(self.labels)?).arg("--json").args(self.convert.arguments());
        command.args(self.metric).args(more);
        Ok(serde_json::from_slice(&toolchain::run(&mut command, Path::new("."))?)?)
    }
}

impl Convert {
    /// As the library takes it.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            scale: self.scale,
            zero_point: self.zero_point,
            mean: self.mean.to_vec(),
            std: self.std.to_vec(),
            nhwc_to_nchw: self.nhwc_to_nchw,
        }
    }

    /// As the command line takes it.
    pub fn arguments(&self) -> Vec<String> {
        let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        let mut arguments =
            vec![format!("--data-scale={}", self.scale), format!("--data-zero-point={}", self.zero_point)];
        if !self.mean.is_empty() {
            arguments.push(format!("--data-mean={}", list(self.mean)));
            arguments.push(format!("--data-std={}", list(self.std)));
        }
        if self.nhwc_to_nchw {
            arguments.push("--data-nhwc".to_owned());
        }
        arguments
    }
}

/// The folder with real models and data, if there is one.
pub fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?.join("shared");
    let folder = std::env::var_os("PTQC_SHARED").map_or(beside, PathBuf::from);
    folder.join("models").is_dir().then_some(folder)
}
