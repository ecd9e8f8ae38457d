//! The start of a workload as a program of its own, for images that have none of the libraries that the daemon needs.

fn main() -> std::process::ExitCode {
    outgate::cli::init()
}
