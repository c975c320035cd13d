//! Attributes of netfilter: numbers in network order, text with a zero, attributes within attributes.

/// `struct nlattr`.
const HEADER: usize = 4;
/// `NLA_F_NESTED`.
pub(super) const NESTED: u16 = 1 << 15;

/// Attributes on their way to the kernel.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds bytes.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.0.extend(value);
        self.close(start);
        self
    }

    /// Adds a number.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds text. The kernel takes nothing behind a zero byte.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.0.extend(value.bytes().take_while(|byte| *byte != 0));
        self.0.push(0);
        self.close(start);
        self
    }

    /// Adds attributes within an attribute.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        start
    }

    /// Its length is known now. What does not fit 16 bits cannot be told, and the kernel refuses it as malformed.
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + HEADER / 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
    }
}
