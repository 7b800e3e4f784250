//! The command `ptqc`, for tests.

fn main() -> std::process::ExitCode {
    ptqc::cli::main()
}
