//! Accuracy of the integer models beside the float models and what others reach, on the whole evaluation sets:
//! `cargo bench -p ptqc-tests --bench accuracy`. Arguments after `--` go to `ptqc eval`, for example
//! `-- --method mse`.

use std::path::Path;

use ptqc_tests::real::MODELS;

fn main() -> anyhow::Result<()> {
    let ptqc = Path::new(env!("CARGO_BIN_EXE_ptqc-under-test"));
    // Cargo itself appends `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    println!("| model | metric | float | ptqc int8 | best int8 of others | agreement with float | relative RMSE |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for model in &MODELS {
        if model.model().is_none() {
            println!("| {} | absent: put the real models beside the repository, or set PTQC_SHARED |", model.name);
            continue;
        }
        let evaluation = model.evaluate(ptqc, &arguments)?;
        println!(
            "| {} | {} | {:.4} | {:.4} | {:.4} | {:.4} | {:.4} |",
            model.name,
            evaluation.metric,
            evaluation.float,
            evaluation.integer,
            model.best_of_others,
            evaluation.agreement,
            evaluation.relative_rmse
        );
    }
    Ok(())
}
