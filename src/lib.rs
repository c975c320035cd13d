//! The facade of the netloom engine.
