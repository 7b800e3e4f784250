//! `RNN`, `GRU` and `LSTM` with all their attributes. The cases run through all checks of `operators`, and of `qdq`, which
//! compares the float definition with ONNX Runtime's.

use ptqc_tests::cases::Case;
use ptqc_tests::onnx::{Attr, Onnx, numbers};

/// Sizes: steps, batch, inputs, units.
type Sizes = [i64; 4];

/// A layer under construction.
struct Layer {
    op: &'static str,
    sizes: Sizes,
    directions: i64,
    attributes: Vec<(&'static str, Attr)>,
    /// Which of the optional inputs there are: B, `sequence_lens`, `initial_h`, `initial_c`, P.
    inputs: [bool; 5],
    lens: Vec<i32>,
    /// Whether states come from outside.
    dynamic: bool,
    outputs: &'static [&'static str],
    batch_first: bool,
}

impl Layer {
    fn new(op: &'static str, sizes: Sizes) -> Layer {
        Layer {
            op,
            sizes,
            directions: 1,
            attributes: vec![("hidden_size", sizes[3].into())],
            inputs: [true, false, false, false, false],
            lens: vec![],
            dynamic: false,
            outputs: &["y", "", ""],
            batch_first: false,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<Attr>) -> Layer {
        self.attributes.push((name, value.into()));
        self
    }

    fn direction(mut self, direction: &'static str) -> Layer {
        self.directions = if direction == "bidirectional" { 2 } else { 1 };
        self.with("direction", direction)
    }

    fn outputs(mut self, outputs: &'static [&'static str]) -> Layer {
        self.outputs = outputs;
        self
    }

    fn plain(mut self) -> Layer {
        self.inputs[0] = false;
        self
    }

    fn states(mut self, dynamic: bool) -> Layer {
        self.inputs[2] = true;
        self.inputs[3] = self.op == "LSTM";
        self.dynamic = dynamic;
        self
    }

    fn peepholes(mut self) -> Layer {
        self.inputs[4] = true;
        self
    }

    fn lens(mut self, lens: &[i32]) -> Layer {
        self.inputs[1] = true;
        self.lens = lens.to_vec();
        self
    }

    fn batch_first(mut self) -> Layer {
        self.batch_first = true;
        self.with("layout", 1)
    }

    fn case(self, name: &str) -> Case {
        let [steps, batch, inputs, units] = self.sizes;
        let gates = match self.op {
            "RNN" => 1,
            "GRU" => 3,
            _ => 4,
        };
        let first = |a: i64, b: i64| if self.batch_first { [b, a] } else { [a, b] };
        let [a, b] = first(steps, batch);
        let state = {
            let [a, b] = first(self.directions, batch);
            [a, b, units]
        };
        let mut m = Onnx::new(if self.batch_first { 14 } else { 13 })
            .input("x", &[a, b, inputs])
            .random("w", &[self.directions, gates * units, inputs])
            .random("r", &[self.directions, gates * units, units]);
        let mut names = vec!["x", "w", "r"];
        let optional = ["b", "lens", "h0", "c0", "p"];
        for (&name, present) in optional.iter().zip(self.inputs) {
            names.push(if present { name } else { "" });
            if !present {
                continue;
            }
            m = match name {
                "b" => m.random("b", &[self.directions, 2 * gates * units]),
                "lens" => {
                    let raw = self.lens.iter().flat_map(|len| len.to_le_bytes()).collect();
                    m.initializer("lens", 6, &[batch], raw)
                }
                "p" => m.random("p", &[self.directions, 3 * units]),
                state_name if self.dynamic => m.input(state_name, &state),
                state_name => m.random(state_name, &state),
            };
        }
        while names.last() == Some(&"") {
            names.pop();
        }
        let mut outputs = self.outputs.to_vec();
        while outputs.last() == Some(&"") {
            outputs.pop();
        }
        m = m.node_with(self.op, &names, &outputs, &self.attributes);
        for output in outputs.into_iter().filter(|output| !output.is_empty()) {
            m = m.output(output);
        }
        Case::new(name, m)
    }
}

fn rnns() -> Vec<Case> {
    let rnn = || Layer::new("RNN", [5, 1, 4, 3]);
    let activated = |name: &'static str, alpha: f32, beta: f32| {
        let layer = rnn().with("activations", vec![name]);
        let layer = if alpha != 0.0 { layer.with("activation_alpha", vec![alpha]) } else { layer };
        if beta != 0.0 { layer.with("activation_beta", vec![beta]) } else { layer }
    };
    vec![
        rnn().case("rnn"),
        rnn().plain().outputs(&["", "h"]).case("rnn_last"),
        rnn().outputs(&["y", "h"]).states(true).case("rnn_states"),
        rnn().direction("reverse").outputs(&["y", "h"]).case("rnn_reverse"),
        rnn().direction("bidirectional").outputs(&["y", "h"]).case("rnn_both"),
        Layer::new("RNN", [1, 3, 4, 3]).states(false).case("rnn_one_step"),
        rnn().with("clip", 0.4f32).case("rnn_clip"),
        activated("Relu", 0.0, 0.0).case("rnn_relu"),
        activated("Sigmoid", 0.0, 0.0).case("rnn_sigmoid"),
        activated("LeakyRelu", 0.2, 0.0).case("rnn_leaky_relu"),
        activated("ScaledTanh", 1.5, 0.7).case("rnn_scaled_tanh"),
        activated("HardSigmoid", 0.3, 0.4).case("rnn_hard_sigmoid"),
        activated("Elu", 0.8, 0.0).case("rnn_elu"),
        activated("Softsign", 0.0, 0.0).case("rnn_softsign"),
        activated("Softplus", 0.0, 0.0).case("rnn_softplus"),
        activated("Affine", 0.3, 0.1).case("rnn_affine"),
    ]
}

fn grus() -> Vec<Case> {
    let gru = || Layer::new("GRU", [6, 1, 5, 4]);
    vec![
        gru().case("gru"),
        gru().with("linear_before_reset", 1).case("gru_reset_behind"),
        gru().plain().with("linear_before_reset", 1).outputs(&["", "h"]).case("gru_last"),
        gru().outputs(&["y", "h"]).states(false).case("gru_initial"),
        gru().with("linear_before_reset", 1).outputs(&["y", "h"]).states(true).case("gru_states"),
        gru().direction("bidirectional").outputs(&["y", "h"]).case("gru_both"),
        gru().direction("reverse").with("linear_before_reset", 1).outputs(&["", "h"]).case("gru_reverse_last"),
        gru().with("clip", 0.5f32).case("gru_clip"),
        gru()
            .with("activations", vec!["HardSigmoid", "ScaledTanh"])
            .with("activation_alpha", vec![0.25f32, 1.2])
            .with("activation_beta", vec![0.5f32, 0.9])
            .case("gru_activations"),
        Layer::new("GRU", [6, 3, 5, 4]).batch_first().states(true).outputs(&["y", "h"]).case("gru_batch_first"),
        Layer::new("GRU", [6, 3, 5, 4])
            .batch_first()
            .direction("bidirectional")
            .states(true)
            .outputs(&["y", "h"])
            .case("gru_batch_first_both"),
        Layer::new("GRU", [6, 3, 5, 4]).lens(&[6, 2, 4]).outputs(&["y", "h"]).case("gru_lens"),
    ]
}

fn lstms() -> Vec<Case> {
    let lstm = || Layer::new("LSTM", [7, 1, 4, 5]);
    vec![
        lstm().case("lstm"),
        lstm().plain().outputs(&["", "h", "c"]).case("lstm_last"),
        lstm().outputs(&["y", "h", "c"]).states(false).case("lstm_initial"),
        lstm().outputs(&["y", "h", "c"]).states(true).case("lstm_states"),
        lstm().direction("reverse").outputs(&["y", "h", "c"]).case("lstm_reverse"),
        lstm().direction("bidirectional").outputs(&["y", "h", "c"]).case("lstm_both"),
        lstm().peepholes().outputs(&["y", "h", "c"]).case("lstm_peepholes"),
        lstm().with("clip", 0.6f32).case("lstm_clip"),
        lstm().with("input_forget", 1).outputs(&["y", "", "c"]).case("lstm_coupled"),
        lstm().with("activations", vec!["HardSigmoid", "Relu", "Tanh"]).case("lstm_activations"),
        Layer::new("LSTM", [7, 2, 4, 5])
            .batch_first()
            .direction("bidirectional")
            .peepholes()
            .states(true)
            .outputs(&["y", "h", "c"])
            .case("lstm_batch_first_both"),
        Layer::new("LSTM", [7, 3, 4, 5])
            .direction("bidirectional")
            .lens(&[5, 7, 1])
            .outputs(&["y", "h", "c"])
            .case("lstm_lens"),
        Layer::new("LSTM", [40, 1, 6, 16]).outputs(&["", "h"]).case("lstm_long").magnitude(3.0).steps(3.0),
        stacked(),
    ]
}

/// Two layers, as exporters write them: the directions are joined between them.
fn stacked() -> Case {
    let (w, r) = (numbers(5, 2 * 16 * 4), numbers(6, 2 * 16 * 4));
    let model = Onnx::new(14)
        .input("x", &[1, 6, 4])
        .weights("w", &[2, 16, 4], &w)
        .weights("r", &[2, 16, 4], &r)
        .random("v", &[1, 12, 8])
        .random("s", &[1, 12, 4])
        .random("f", &[4, 3])
        .ints("shape", &[3], &[0, 0, -1])
        .ints("last", &[], &[-1])
        .node_with("Transpose", &["x"], &["t"], &[("perm", [1, 0, 2].into())])
        .node_with(
            "LSTM",
            &["t", "w", "r"],
            &["a"],
            &[("hidden_size", 4.into()), ("direction", "bidirectional".into())],
        )
        .node_with("Transpose", &["a"], &["u"], &[("perm", [0, 2, 1, 3].into())])
        .node("Reshape", &["u", "shape"], &["k"])
        .node_with("GRU", &["k", "v", "s"], &["", "h"], &[("hidden_size", 4.into()), ("linear_before_reset", 1.into())])
        .node_with("Gather", &["h", "last"], &["g"], &[("axis", 0.into())])
        .node("MatMul", &["g", "f"], &["y"])
        .output("y");
    Case::new("recurrent_stacked", model).steps(4.0)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [rnns(), grus(), lstms()].concat()
}
