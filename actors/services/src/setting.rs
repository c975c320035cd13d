//! What a reload of the configuration changes while the engine runs.

use std::cell::RefCell;

/// A value of the configuration, read at each use. Only the controller sets it. Lives on one engine thread.
#[derive(Debug, Default)]
pub struct Setting<T>(RefCell<T>);

impl<T: Clone> Setting<T> {
    /// What it is now.
    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }

    /// Changes it, for every use from now on.
    pub fn set(&self, value: T) {
        *self.0.borrow_mut() = value;
    }
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self(RefCell::new(value))
    }
}
