//! Recognises handwritten digits on an emulated Cortex-M4.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};

mod digits {
    include!(concat!(env!("OUT_DIR"), "/digits.rs"));
}

/// Images to recognise: the first of the evaluation set, with pixels from 0 to 16, as a sensor could deliver them.
static IMAGES: [[u8; digits::INPUT_0_LEN]; 3] = images(include_bytes!("../../digits/eval.npy"));

/// Pixels as the model's input wants them. The model was trained on pixel / 16; the compiler computes the table, so the
/// firmware has no floating point.
static QUANTIZED: [i8; 17] = quantized(digits::INPUT_0.scale, digits::INPUT_0.zero_point);

#[entry]
fn main() -> ! {
    let mut model = digits::Model::new();
    for image in &IMAGES {
        let input = image.map(|pixel| QUANTIZED[usize::from(pixel)]);
        let mut output = [0; digits::OUTPUT_0_LEN];
        model.run(&input, &mut output);
        let best = (0..output.len()).rev().max_by_key(|&class| output[class]);
        hprintln!("is a {}", best.unwrap_or_default());
    }
    debug::exit(debug::EXIT_SUCCESS);
    loop {}
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {}
}

const fn quantized(scale: f32, zero_point: i32) -> [i8; 17] {
    let mut table = [0; 17];
    let mut pixel = 0;
    while pixel < table.len() {
        let q = zero_point + (pixel as f32 / 16.0 / scale + 0.5) as i32;
        table[pixel] = if q > 127 { 127 } else { q as i8 };
        pixel += 1;
    }
    table
}

/// The first images of a `.npy` file of `float32` between 0 and 1.
const fn images(npy: &[u8]) -> [[u8; digits::INPUT_0_LEN]; 3] {
    let mut images = [[0; digits::INPUT_0_LEN]; 3];
    let mut at = 10 + u16::from_le_bytes([npy[8], npy[9]]) as usize;
    let mut index = 0;
    while index < images.len() * digits::INPUT_0_LEN {
        let value = f32::from_le_bytes([npy[at], npy[at + 1], npy[at + 2], npy[at + 3]]);
        images[index / digits::INPUT_0_LEN][index % digits::INPUT_0_LEN] = (value * 16.0) as u8;
        at += 4;
        index += 1;
    }
    images
}
