//! Code does not become slower or larger unseen: every model's figures are compared with those that are kept.

use anyhow::{Context as _, Result};
use ptqc_target_runtimes::Target;
use ptqc_tests::figures::{self, File, Kept, MODELS, Subject};
use rayon::prelude::*;

/// Differences up to this part pass: measurements repeat exactly, but calibration may differ in the last bit.
const TOLERANCE: f64 = 0.01;

const RENEW: &str = "`cargo bench -p ptqc-tests --bench figures` renews the files";

#[test]
fn no_figure_is_worse_than_the_one_that_is_kept() -> Result<()> {
    let subjects: Vec<Subject> = MODELS
        .iter()
        .filter_map(|name| {
            let subject = Subject::load(name).transpose();
            if subject.is_none() {
                println!("skipped: the model {name} is absent");
            }
            subject
        })
        .collect::<Result<_>>()?;
    let mut pairs = vec![];
    for target in figures::targets() {
        let file = File::read(target)?.with_context(|| format!("no figures of {} are kept: {RENEW}", target.name))?;
        match figures::compiler(target)? {
            None => println!("skipped: the compiler or the emulator for {} is not installed", target.name),
            Some(compiler) if compiler != file.compiler => {
                println!("skipped: the figures of {} are of {}, not of {compiler}", target.name, file.compiler);
            }
            Some(_) => pairs.extend(subjects.iter().map(|subject| (target, file.clone(), subject))),
        }
    }
    let check = |(target, file, subject): &(&Target, File, &Subject)| -> Result<Vec<String>> {
        let what = format!("{} on {}", subject.name, target.name);
        let Some(kept) = file.models.get(&subject.name) else { return Ok(vec![format!("{what}: nothing is kept")]) };
        let measured = Kept::of(&subject.measure(&subject.build(target)?, target).with_context(|| what.clone())?);
        let numbers = measured.numbers().into_iter().zip(kept.numbers());
        let difference = |((name, is), (_, was)): ((&str, u64), (&str, u64))| {
            let change = (is as f64 - was as f64) / was.max(1) as f64;
            let word = if change > 0.0 { "worse" } else { "better, renew it" };
            (change.abs() > TOLERANCE)
                .then(|| format!("{what}: {is} {name} instead of {was} ({:+.1} %, {word})", 100.0 * change))
        };
        Ok(numbers.filter_map(difference).collect())
    };
    let problems: Vec<String> = pairs.par_iter().map(check).collect::<Result<Vec<_>>>()?.concat();
    assert!(problems.is_empty(), "{}\n{RENEW}", problems.join("\n"));
    Ok(())
}
