//! Storage with stable numbers: objects refer to each other without owning each other.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A number of an [`Arena`].
pub(super) trait Slot: Copy {
    fn at(place: usize) -> Self;
    fn place(self) -> usize;
}

/// Objects of one kind. A number is used again after its object is removed.
#[derive(Debug)]
pub(super) struct Arena<I, T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    numbers: PhantomData<I>,
}

impl<I: Slot, T> Arena<I, T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), numbers: PhantomData }
    }

    pub(super) fn insert(&mut self, value: T) -> I {
        if let Some(place) = self.free.pop() {
            self.slots[place] = Some(value);
            return I::at(place);
        }
        self.slots.push(Some(value));
        I::at(self.slots.len() - 1)
    }

    pub(super) fn remove(&mut self, number: I) -> Option<T> {
        let value = self.slots.get_mut(number.place())?.take();
        if value.is_some() {
            self.free.push(number.place());
        }
        value
    }

    pub(super) fn get(&self, number: I) -> Option<&T> {
        self.slots.get(number.place())?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(place, slot)| Some((I::at(place), slot.as_ref()?)))
    }
}

impl<I: Slot, T> Index<I> for Arena<I, T> {
    type Output = T;

    fn index(&self, number: I) -> &T {
        self.slots[number.place()].as_ref().expect("a removed object is unlinked from all others first")
    }
}

impl<I: Slot, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, number: I) -> &mut T {
        self.slots[number.place()].as_mut().expect("a removed object is unlinked from all others first")
    }
}
