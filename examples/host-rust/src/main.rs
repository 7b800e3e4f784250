//! Recognises handwritten digits: `host-rust [IMAGES.npy [LABELS.npy]]`.

mod npy;

use std::path::PathBuf;
use std::process::ExitCode;

mod digits {
    include!(concat!(env!("OUT_DIR"), "/digits.rs"));
}

fn main() -> ExitCode {
    match recognise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn recognise() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let examples = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../digits"));
    let (images, labels) = match arguments.next() {
        Some(images) => (images, arguments.next()),
        None => (examples.join("eval.npy"), Some(examples.join("labels.npy"))),
    };
    let pixels = npy::read(&images)?;
    let (images, rest) = pixels.as_chunks();
    if !rest.is_empty() {
        return Err(format!("an image has {} pixels, of the last there are only {}", digits::INPUT_0_LEN, rest.len()));
    }
    let mut model = digits::Model::new();
    let classes: Vec<usize> = images.iter().map(|image| classify(&mut model, image)).collect();
    println!("the first ten are {}", classes.iter().take(10).map(usize::to_string).collect::<Vec<_>>().join(" "));
    if let Some(labels) = labels {
        let labels = npy::read(&labels)?;
        let right = classes.iter().zip(&labels).filter(|&(&class, &label)| class as f32 == label).count();
        println!("{right} of {} are right", classes.len());
    }
    Ok(())
}

/// The class with the largest output. Outputs share one scale, so their integers can be compared.
fn classify(model: &mut digits::Model, image: &[f32; digits::INPUT_0_LEN]) -> usize {
    let mut input = [0; digits::INPUT_0_LEN];
    let mut output = [0; digits::OUTPUT_0_LEN];
    digits::quantize_input_0(image, &mut input);
    model.run(&input, &mut output);
    let best = (0..output.len()).rev().max_by_key(|&class| output[class]);
    best.unwrap_or_default()
}
