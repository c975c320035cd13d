//! The engine through its public interface, over the simulated kernel.

mod bad_input;
mod lifecycle;
mod support;
