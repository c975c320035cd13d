//! The netloom command line.

mod bench;
mod demo;
mod dns;
mod ipam;
mod leftovers;
mod ports;
mod records;
mod report;
mod setkey;
mod signals;
mod standing;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Half of what the engine does is short-lived messages. The program chooses the allocator, never the library:
/// an embedder has its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Shows address pools and who holds addresses.
    Ipam(ipam::Options),
    /// Shows ports of the host and where they lead.
    Ports(ports::Options),
    /// Shows names and what they stand for.
    Dns(dns::Options),
    /// Hands a container's network namespace to an engine: a hook (createRuntime) of runc and its like, which gets
    /// the container's state on standard input.
    Setkey(setkey::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("NETLOOM_LOG").unwrap_or_else(|_| "error".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let mut out = report::Output::standard();
    let outcome = match arguments.command {
        Command::Demo(options) => demo::run(&options, &mut out),
        Command::Bench(options) => bench::run(options, &mut out),
        Command::Ipam(options) => ipam::run(&options, &mut out),
        Command::Ports(options) => ports::run(&options, &mut out),
        Command::Dns(options) => dns::run(&options, &mut out),
        Command::Setkey(options) => setkey::run(&options),
    };
    let written = out.finish();
    for error in [outcome.as_ref().err(), written.as_ref().err()].into_iter().flatten() {
        report::failure(error);
    }
    if matches!((outcome, written), (Ok(true), Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
