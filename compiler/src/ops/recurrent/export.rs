//! A direction of a recurrent layer as the ONNX operator that it is, with the weights it has become.

use super::{Kind, Output, Recurrent, State, quantized};
use crate::ir::DType;
use crate::ops::ExportSite;
use crate::ops::export::Export;
use crate::ops::import::Attribute;

impl Recurrent {
    /// The node, and a `Squeeze` of the axis of directions.
    pub(super) fn written(&self, export: &mut Export, site: &ExportSite) -> String {
        let (cell, batch) = (&self.cell, self.lens.len());
        let w = weights(export, &cell.w, cell.inputs);
        let r = weights(export, &cell.r, cell.hidden);
        let biases = [&cell.w_bias[..], &cell.r_bias].concat();
        let b = export.floats(&[1, biases.len()], biases);
        let lens = match self.lens.iter().all(|&len| len == self.steps) {
            true => String::new(),
            false => {
                let lens = self.lens.iter().map(|&len| len as i32).collect();
                export.integers(&[batch], DType::I32, lens)
            }
        };
        let [h, c] = [0, 1].map(|which| match &self.initial[which] {
            State::Constant(values) if values.iter().all(|&value| value == 0.0) => String::new(),
            State::Constant(values) => export.floats(&[1, batch, cell.hidden], values.clone()),
            State::Operand(port) => {
                let first = export.ints(vec![0]);
                export.node("Unsqueeze", &[&site.operands[*port], &first], &[])
            }
        });
        let peepholes = cell.peepholes.as_ref().map(|p| export.floats(&[1, p.len()], p.clone())).unwrap_or_default();
        let mut inputs = vec![site.x(), &w, &r, &b, &lens, &h];
        if matches!(cell.kind, Kind::Lstm { .. }) {
            inputs.extend([c.as_str(), &peepholes]);
        }
        while inputs.last().is_some_and(|input| input.is_empty()) {
            inputs.pop();
        }
        let op_type = match cell.kind {
            Kind::Rnn => "RNN",
            Kind::Gru { .. } => "GRU",
            Kind::Lstm { .. } => "LSTM",
        };
        let (port, axis) = match self.output {
            Output::Sequence => (0, 1),
            Output::Hidden => (1, 0),
            Output::Cell => (2, 0),
        };
        let y = export.node_with_output(port, op_type, &inputs, &self.attributes());
        let axis = export.ints(vec![axis]);
        export.node("Squeeze", &[&y, &axis], &[])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let cell = &self.cell;
        let written: Vec<_> = cell.activations.iter().map(|activation| activation.written()).collect();
        let direction = if cell.reverse { "reverse" } else { "forward" };
        let mut attributes = vec![
            ("hidden_size", Attribute::Int(cell.hidden as i64)),
            ("direction", Attribute::Text(direction.to_owned())),
            ("activations", Attribute::Texts(written.iter().map(|(name, _, _)| (*name).to_owned()).collect())),
        ];
        let alphas: Vec<f32> = written.iter().filter_map(|(_, alpha, _)| *alpha).collect();
        let betas: Vec<f32> = written.iter().filter_map(|(_, _, beta)| *beta).collect();
        for (name, values) in [("activation_alpha", alphas), ("activation_beta", betas)] {
            if !values.is_empty() {
                attributes.push((name, Attribute::Floats(values)));
            }
        }
        attributes.extend(cell.clip.map(|clip| ("clip", Attribute::Float(clip))));
        match cell.kind {
            Kind::Gru { reset_behind: true } => attributes.push(("linear_before_reset", Attribute::Int(1))),
            Kind::Lstm { coupled: true } => attributes.push(("input_forget", Attribute::Int(1))),
            Kind::Rnn | Kind::Gru { .. } | Kind::Lstm { .. } => {}
        }
        attributes
    }
}

/// Reals of integer weights, one scale for each row.
fn weights(export: &mut Export, weights: &[f32], row_len: usize) -> String {
    let (quantized, scales) = quantized(weights, row_len);
    let rows = scales.len();
    let data = quantized.iter().map(|&w| w.into()).collect();
    let weights = export.integers(&[1, rows, row_len], DType::I8, data);
    let scales = export.floats(&[rows], scales.iter().map(|&scale| scale as f32).collect());
    let zeros = export.integers(&[rows], DType::I8, vec![0; rows]);
    export.node("DequantizeLinear", &[&weights, &scales, &zeros], &[("axis", Attribute::Int(1))])
}
