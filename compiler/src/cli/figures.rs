//! Figures as tables, and the memory of the last measurement.

use crate::figures::{Figures, Method};

/// A table for a terminal.
pub fn table(figures: &Figures) -> String {
    let mut text = format!("{} on {}, {}\n", figures.name, figures.target, origin(figures));
    if let Some(total) = figures.instructions {
        let name = figures.layers.iter().map(|layer| layer.function.len()).max().unwrap_or(0).max(15);
        let mut line = |layer: &str, macs: &str, instructions: &str, per_mac: &str, code: &str, kernel: &str| {
            let row = format!("  {layer:name$} {macs:>11} {instructions:>12} {per_mac:>7} {code:>7}  {kernel}");
            text += row.trim_end();
            text.push('\n');
        };
        line("layer", "MACs", "instructions", "per MAC", "code B", "kernel");
        for layer in &figures.layers {
            let count = layer.instructions.unwrap_or(0);
            let cells = [layer.macs, count, layer.code].map(|number| number.to_string());
            line(&layer.function, &cells[0], &cells[1], &per_mac(count, layer.macs), &cells[2], &layer.kernel);
        }
        line("whole inference", &figures.macs.to_string(), &total.to_string(), &per_mac(total, figures.macs), "", "");
    }
    if let Some(cycles) = &figures.cycles {
        text += &format!(
            "  about {} cycles by the model of the core: {} for each instruction, memory without wait states\n",
            cycles.estimate, cycles.per_instruction
        );
    }
    if let Some(time) = &figures.time {
        text += &format!(
            "  {:.2} us for an inference, one thread: median of {} times, 80 % of them within {:.2} and {:.2} us\n",
            time.median_us, time.runs, time.low_us, time.high_us
        );
    }
    let (flash, ram) = (&figures.flash, &figures.ram);
    let (code, library, weights) = (flash.code, flash.library, flash.weights);
    text += &format!("  flash {} bytes: code {code}, library {library}, weights {weights}\n", flash.total());
    let (arena, variables, stack) = (ram.arena, ram.variables, ram.stack);
    text += &format!("  RAM   {} bytes: arena {arena}, variables {variables}, stack {stack}\n", ram.total());
    text
}

/// Where the figures come from, and how exact they are.
fn origin(figures: &Figures) -> String {
    match figures.method {
        Method::Estimated => "estimated: operations weighed with the costs of gcc -O2".to_owned(),
        Method::Measured => {
            let what = match (figures.instructions, &figures.time) {
                (Some(_), None) => "instructions counted in QEMU, exact",
                (Some(_), Some(_)) => "instructions counted in QEMU, exact; time on this machine",
                (None, _) => "time on this machine",
            };
            let compiler = figures.compiler.as_deref().unwrap_or("?");
            format!("{compiler}, {}\n  {what}; the output equals the evaluator's", figures.flags.join(" "))
        }
    }
}

fn per_mac(instructions: u64, macs: u64) -> String {
    match macs {
        0 => String::new(),
        macs => format!("{:.2}", instructions as f64 / macs as f64),
    }
}

/// The last measurement of a model, in a file of its own in the user's cache.
pub mod last_bench {
    use std::path::PathBuf;

    use serde::Serialize;

    use crate::diag::{self, Code, Diagnostic};
    use crate::driver::sha256;
    use crate::figures::{Figures, SCHEMA};
    use crate::recipe::Recipe;

    /// How far an estimate is from the last measurement.
    #[derive(Debug, Serialize)]
    pub struct Comparison {
        /// Compiler of the measurement.
        compiler: String,
        /// Its flags.
        flags: Vec<String>,
        /// Measured instructions of an inference.
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<Difference>,
        /// Measured bytes of code and library.
        code: Difference,
        /// Measured bytes of RAM.
        ram: Difference,
    }

    /// A measured number, and how far the estimate is from it.
    #[derive(Debug, Serialize)]
    struct Difference {
        /// The number.
        measured: u64,
        /// Estimate less measurement, in parts of the measurement.
        error: f64,
    }

    /// An estimate as it is printed: figures, and the last measurement if there is one.
    #[derive(Serialize)]
    struct WithComparison<'a> {
        #[serde(flatten)]
        figures: &'a Figures,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_bench: Option<&'a Comparison>,
    }

    /// Compares an estimate with a measurement.
    pub fn compare(estimate: &Figures, bench: &Figures) -> Comparison {
        let difference = |estimated: u64, measured: u64| Difference {
            measured,
            error: (estimated as f64 - measured as f64) / measured.max(1) as f64,
        };
        Comparison {
            compiler: bench.compiler.clone().unwrap_or_default(),
            flags: bench.flags.clone(),
            instructions: estimate.instructions.zip(bench.instructions).map(|(a, b)| difference(a, b)),
            code: difference(estimate.flash.code, bench.flash.code + bench.flash.library),
            ram: difference(estimate.ram.total(), bench.ram.total()),
        }
    }

    impl Comparison {
        /// A sentence.
        pub fn text(&self) -> String {
            let part = |what: &str, difference: &Difference| {
                format!("{what} {} ({:+.1} %)", difference.measured, 100.0 * difference.error)
            };
            let instructions = self.instructions.as_ref().map(|difference| part("instructions", difference));
            let parts: Vec<String> = instructions
                .into_iter()
                .chain([part("code bytes", &self.code), part("RAM bytes", &self.ram)])
                .collect();
            format!(
                "  the last bench ({}, {}) measured {}; in brackets how far this estimate is off\n",
                self.compiler,
                self.flags.join(" "),
                parts.join(", ")
            )
        }
    }

    /// The JSON of an estimate.
    pub fn to_json(figures: &Figures, last_bench: Option<&Comparison>) -> String {
        serde_json::to_string_pretty(&WithComparison { figures, last_bench })
            .expect("figures hold only numbers, texts and lists")
    }

    /// Keeps a measurement. A machine without a place for caches forgets it.
    pub fn remember(figures: &Figures, recipe: &Recipe) -> diag::Result<()> {
        let Some(path) = path(figures, recipe) else { return Ok(()) };
        let write = || {
            let folder = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(folder)?;
            let file = tempfile::NamedTempFile::new_in(folder)?;
            std::fs::write(file.path(), figures.to_json())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|error| {
            Diagnostic::error(Code::OutputUnwritable, format!("the measurement cannot be kept: {error}"))
                .file(path.display())
                .into()
        })
    }

    /// The last measurement of the same model, ranges and options.
    pub fn recall(figures: &Figures, recipe: &Recipe) -> Option<Figures> {
        let text = std::fs::read_to_string(path(figures, recipe)?).ok()?;
        serde_json::from_str(&text).ok().filter(|bench: &Figures| bench.schema == SCHEMA)
    }

    /// The file for a model, its ranges and the options that its code depends on.
    fn path(figures: &Figures, recipe: &Recipe) -> Option<PathBuf> {
        let options =
            (recipe.target.name, recipe.language.name(), recipe.goal.name(), recipe.arena.name(), recipe.float_helpers);
        let key = format!("{} {} {options:?}", figures.model_sha256, figures.ranges_sha256);
        let name = &sha256(key.as_bytes())[..32];
        Some(cache_folder()?.join("ptqc/bench").join(format!("{name}.json")))
    }

    fn cache_folder() -> Option<PathBuf> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("LOCALAPPDATA"))
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
    }
}
