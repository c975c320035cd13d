//! The netloom command line.

mod bench;
mod demo;
mod leftovers;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Half of what the engine does is short-lived messages. The program chooses the allocator, never the library:
/// an embedder has its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A container network engine.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins two containers to a network, proves that they reach each other, and cleans up.
    Demo(demo::Options),
    /// Measures how fast the engine is.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("NETLOOM_LOG").unwrap_or_else(|_| "error".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = match arguments.command {
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::failure(&error);
            ExitCode::FAILURE
        }
    }
}
