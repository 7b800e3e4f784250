//! The command `ptqc`.

fn main() -> std::process::ExitCode {
    ptqc::cli::main()
}
