//! Storage with stable numbers: objects refer to each other without owning each other.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A number of an [`Arena`].
pub(super) trait Slot: Copy {
    fn at(place: usize) -> Self;
    fn place(self) -> usize;
}

/// How many objects lie together: a single array would have to be moved as a whole when it is full, and that takes a
/// fifth of a second for 300,000 links.
const CHUNK: usize = 1024;

/// Objects of one kind. A number is used again after its object is removed.
#[derive(Debug)]
pub(super) struct Arena<I, T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<usize>,
    numbers: PhantomData<I>,
}

impl<I: Slot, T> Arena<I, T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), numbers: PhantomData }
    }

    pub(super) fn insert(&mut self, value: T) -> I {
        if let Some(place) = self.free.pop() {
            self.chunks[place / CHUNK][place % CHUNK] = Some(value);
            return I::at(place);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(Some(value));
        I::at(last * CHUNK + self.chunks[last].len() - 1)
    }

    pub(super) fn remove(&mut self, number: I) -> Option<T> {
        let place = number.place();
        let value = self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK)?.take();
        if value.is_some() {
            self.free.push(number.place());
        }
        value
    }

    pub(super) fn get(&self, number: I) -> Option<&T> {
        let place = number.place();
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        let slots = self.chunks.iter().flatten().enumerate();
        slots.filter_map(|(place, slot)| Some((I::at(place), slot.as_ref()?)))
    }
}

impl<I: Slot, T> Index<I> for Arena<I, T> {
    type Output = T;

    fn index(&self, number: I) -> &T {
        self.get(number).expect("a removed object is unlinked from all others first")
    }
}

impl<I: Slot, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, number: I) -> &mut T {
        let place = number.place();
        let slot = &mut self.chunks[place / CHUNK][place % CHUNK];
        slot.as_mut().expect("a removed object is unlinked from all others first")
    }
}
