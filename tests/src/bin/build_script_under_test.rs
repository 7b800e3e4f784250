//! A build script that reads samples, for tests; its argument says what it does.

use ptqc::Build;

fn main() {
    let data = match std::env::args().nth(1).as_deref() {
        Some("shape") => "wide.npy",
        Some("warning") => "units.npy",
        _ => "folder",
    };
    Build::new("m.onnx").calib(data).run();
}
