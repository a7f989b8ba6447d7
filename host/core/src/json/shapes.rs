//! The grammar over a line's tokens, and the shapes of lines, so that a line that is built like an earlier one need not be
//! walked through.
//!
//! But for the text of numbers and literals, the kinds of a line's tokens say whether it is JSON text, and which tokens are
//! keys. A log has many records, and few ways in which they are built.

use super::MAX_DEPTH;

/// So many shapes are kept; with one more all are forgotten.
const MAX_SHAPES: usize = 128;

/// Shapes of more tokens than that are not kept.
const MAX_TOKENS: usize = 4096;

/// So many shapes are looked at before a line is walked through.
const MAX_COMPARED: usize = 8;

/// No shape.
const NONE: u8 = u8::MAX;

/// What is known of all lines that are built alike.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    kinds: Vec<u8>,
    /// The tokens that are keys of the outermost object. Each has two tokens behind it.
    keys: Vec<u32>,
    /// The tokens that are numbers or literals.
    scalars: Vec<u32>,
    /// The shape kept before it whose number of tokens has the same last byte.
    before: u8,
}

impl Shape {
    /// The shape of a line whose tokens have these kinds, if such a line can be one whole JSON text.
    fn of(kinds: &[u8]) -> Option<Self> {
        let (mut shape, mut nest, mut next) = (Self::default(), Nest::default(), 0);
        let kind = |token: usize| kinds.get(token).copied().unwrap_or_default();
        loop {
            // A value comes next.
            let first = kind(next);
            next += 1;
            match first {
                b'{' | b'[' => {
                    let object = first == b'{';
                    nest.enter(object)?;
                    if kind(next) != first + 2 {
                        if object {
                            next = shape.key(kinds, next, nest.depth)?;
                        }
                        continue;
                    }
                    next += 1;
                    nest.leave();
                }
                b'"' => {}
                b'0' | b't' | b'f' | b'n' => shape.scalars.push(next as u32 - 1),
                _ => return None,
            }
            // A value is complete.
            loop {
                if nest.depth == 0 {
                    shape.kinds = kinds.to_vec();
                    return (next == kinds.len()).then_some(shape);
                }
                let mark = kind(next);
                next += 1;
                match (mark, nest.in_object()) {
                    (b',', true) => {
                        next = shape.key(kinds, next, nest.depth)?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => nest.leave(),
                    _ => return None,
                }
            }
        }
    }

    /// Passes the key that must be at `next`, with its colon, in an object that is `depth` levels deep.
    fn key(&mut self, kinds: &[u8], next: usize, depth: usize) -> Option<usize> {
        let [b'"', b':', ..] = kinds.get(next..)? else { return None };
        if depth == 1 {
            self.keys.push(next as u32);
        }
        Some(next + 2)
    }

    /// The tokens that are keys of the outermost object. A colon is behind each.
    #[inline(always)]
    pub(crate) fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// The tokens that are numbers or literals, or begin like them.
    #[inline(always)]
    pub(crate) fn scalars(&self) -> &[u32] {
        &self.scalars
    }
}

/// The containers that a walk is in: one bit per level, the innermost lowest, whether it is an object.
#[derive(Default)]
struct Nest {
    depth: usize,
    objects: u128,
}

impl Nest {
    fn enter(&mut self, object: bool) -> Option<()> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Some(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 != 0
    }
}

/// The shapes of the lines so far.
#[derive(Debug)]
pub(crate) struct Shapes {
    kept: Vec<Shape>,
    /// The newest one kept for each last byte of a number of tokens.
    newest: [u8; 256],
    /// The last one that is not kept.
    other: Shape,
}

impl Default for Shapes {
    fn default() -> Self {
        Self { kept: Vec::new(), newest: [NONE; 256], other: Shape::default() }
    }
}

impl Shapes {
    /// The shape of a line whose tokens have these kinds, if such a line can be one whole JSON text.
    #[inline]
    pub(crate) fn of(&mut self, kinds: &[u8]) -> Option<&Shape> {
        match self.find(kinds) {
            Some(found) => Some(&self.kept[found]),
            None => self.add(kinds),
        }
    }

    #[inline]
    fn find(&self, kinds: &[u8]) -> Option<usize> {
        let mut next = self.newest[kinds.len() % 256];
        for _ in 0..MAX_COMPARED {
            let shape = self.kept.get(usize::from(next))?;
            if shape.kinds == kinds {
                return Some(usize::from(next));
            }
            next = shape.before;
        }
        None
    }

    #[cold]
    fn add(&mut self, kinds: &[u8]) -> Option<&Shape> {
        let mut shape = Shape::of(kinds)?;
        if kinds.len() > MAX_TOKENS {
            self.other = shape;
            return Some(&self.other);
        }
        if self.kept.len() == MAX_SHAPES {
            self.kept.clear();
            self.newest = [NONE; 256];
        }
        let number = self.kept.len() as u8;
        shape.before = std::mem::replace(&mut self.newest[kinds.len() % 256], number);
        self.kept.push(shape);
        self.kept.last()
    }
}
