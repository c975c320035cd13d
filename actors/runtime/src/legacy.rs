//! What passes from an actor that died to its successor.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A value that belongs to an actor's office. An incarnation is lent it, and it comes back when that one ends,
/// however that was. What a panic interrupted half-way is in it, so the successor has to look it over.
pub struct Legacy<T>(Rc<RefCell<Option<Box<T>>>>);

/// A value on loan.
pub struct Lent<T> {
    /// Taken by `drop` and by nothing else.
    value: Option<Box<T>>,
    home: Legacy<T>,
}

impl<T> Legacy<T> {
    /// A value that nobody has.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Rc::new(RefCell::new(Some(Box::new(value)))))
    }

    /// Lends the value; `None` while somebody has it.
    #[must_use]
    pub fn lend(&self) -> Option<Lent<T>> {
        let value = self.0.borrow_mut().take()?;
        Some(Lent { value: Some(value), home: self.clone() })
    }
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect("taken by drop alone")
    }
}

impl<T> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("taken by drop alone")
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.home.0.borrow_mut() = self.value.take();
    }
}

impl<T> Clone for Legacy<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Legacy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.borrow().is_some() { "Legacy(here)" } else { "Legacy(lent)" })
    }
}

impl<T: fmt::Debug> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_even_from_a_panic() {
        let legacy = Legacy::new(vec![1]);
        let mut lent = legacy.lend().expect("nobody has it");
        assert!(legacy.lend().is_none(), "one at a time");
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            lent.push(2);
            panic!("a planned panic");
        }));
        assert!(died.is_err());
        assert_eq!(*legacy.lend().expect("it is back"), [1, 2]);
    }
}
