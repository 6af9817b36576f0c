//! Who sees whom: several sequences, or the branches of a tree, packed into one row of tokens.
//!
//! A packed row is cut into segments. A token sees the earlier tokens of its own segment, and all of its
//! segment's parent, grandparent and so on; nothing else. So a prefix that two dialogues share is computed
//! once, and dialogues that share nothing do not see each other.

use std::ops::Range;

use crate::error::{AgentError, Result};

/// The segments of a packed row, each after its parent.
///
/// ```
/// use socratiq_agents::model::Layout;
/// // A shared prompt of 3 tokens, and two completions of 2 and 1.
/// let mut layout = Layout::default();
/// let prompt = layout.push(3, None)?;
/// layout.push(2, Some(prompt))?;
/// layout.push(1, Some(prompt))?;
/// assert_eq!(layout.positions(), [0, 1, 2, 3, 4, 3]);
/// # Ok::<(), socratiq_agents::AgentError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Where it begins in the row.
    start: usize,
    length: usize,
    /// The position of its first token in its sequence.
    first_position: usize,
    parent: Option<usize>,
}

impl Layout {
    /// One sequence of `length` tokens.
    pub fn sequence(length: usize) -> Self {
        Self {
            segments: vec![Segment {
                start: 0,
                length,
                first_position: 0,
                parent: None,
            }],
        }
    }

    /// Appends a segment that continues `parent`, or begins a sequence of its own; returns its index.
    ///
    /// # Errors
    /// When `parent` is no earlier segment.
    pub fn push(&mut self, length: usize, parent: Option<usize>) -> Result<usize> {
        let first_position = match parent.map(|index| self.segments.get(index)) {
            None => 0,
            Some(Some(parent)) => parent.first_position + parent.length,
            Some(None) => {
                return Err(AgentError::Encoding(
                    "a segment's parent must come before it".to_owned(),
                ));
            }
        };
        self.segments.push(Segment {
            start: self.len(),
            length,
            first_position,
            parent,
        });
        Ok(self.segments.len() - 1)
    }

    /// T: the length of the row.
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |s| s.start + s.length)
    }

    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of each token in its own sequence, `[T]`.
    pub fn positions(&self) -> Vec<u32> {
        self.segments
            .iter()
            .flat_map(|s| (s.first_position..s.first_position + s.length).map(|p| p as u32))
            .collect()
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The rows of a segment.
    pub fn rows(&self, segment: usize) -> Range<usize> {
        let Segment { start, length, .. } = self.segments[segment];
        start..start + length
    }

    /// The position of a segment's first token in its sequence.
    pub fn first_position(&self, segment: usize) -> usize {
        self.segments[segment].first_position
    }

    /// The segment that a segment continues.
    pub fn parent(&self, segment: usize) -> Option<usize> {
        self.segments[segment].parent
    }

    /// The rows that the tokens of a segment see, from the beginning of their sequence to themselves.
    pub fn path(&self, segment: usize) -> Vec<Range<usize>> {
        let mut path: Vec<_> = std::iter::successors(Some(segment), |index| self.parent(*index))
            .map(|index| self.rows(index))
            .collect();
        path.reverse();
        path
    }

    /// The paths of all segments, grouped by the segment that their sequences begin with.
    pub fn trees(&self) -> Vec<Vec<Vec<Range<usize>>>> {
        let mut trees: Vec<Vec<Vec<Range<usize>>>> = Vec::new();
        let mut tree_of = Vec::with_capacity(self.segments.len());
        for (index, segment) in self.segments.iter().enumerate() {
            let tree = segment.parent.map_or(trees.len(), |parent| tree_of[parent]);
            tree_of.push(tree);
            if tree == trees.len() {
                trees.push(Vec::new());
            }
            trees[tree].push(self.path(index));
        }
        trees
    }

    /// 0 where the token of the row sees the token of the column and −∞ elsewhere, `[T, T]` row by row.
    /// With a window, a token sees that many tokens back, itself included.
    pub fn additive_mask(&self, window: Option<usize>) -> Vec<f32> {
        let total = self.len();
        let mut mask = vec![f32::NEG_INFINITY; total * total];
        for (index, segment) in self.segments.iter().enumerate() {
            let path = self.path(index);
            for offset in 0..segment.length {
                let (row, position) = (segment.start + offset, segment.first_position + offset);
                for (other, column) in path.iter().cloned().flatten().enumerate() {
                    let distance = position.checked_sub(other);
                    if distance.is_some_and(|d| window.is_none_or(|window| d < window)) {
                        mask[row * total + column] = 0.0;
                    }
                }
            }
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(layout: &Layout, window: Option<usize>) -> Vec<String> {
        layout
            .additive_mask(window)
            .chunks(layout.len())
            .map(|row| {
                row.iter()
                    .map(|m| if *m == 0.0 { 'x' } else { '.' })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn branches_see_their_prefix_and_not_each_other() {
        let mut layout = Layout::default();
        let root = layout.push(2, None).unwrap();
        let left = layout.push(2, Some(root)).unwrap();
        layout.push(1, Some(root)).unwrap();
        layout.push(1, Some(left)).unwrap();
        layout.push(2, None).unwrap();
        assert_eq!(layout.positions(), [0, 1, 2, 3, 2, 4, 0, 1]);
        assert_eq!(
            seen(&layout, None),
            [
                "x.......", "xx......", "xxx.....", "xxxx....", "xx..x...", "xxxx.x..", "......x.",
                "......xx"
            ]
        );
        assert_eq!(
            seen(&layout, Some(2)),
            [
                "x.......", "xx......", ".xx.....", "..xx....", ".x..x...", "...x.x..", "......x.",
                "......xx"
            ]
        );
    }

    fn ends(run: &Range<usize>) -> (usize, usize) {
        (run.start, run.end)
    }

    #[test]
    fn trees_are_grouped_by_their_roots() {
        let mut layout = Layout::default();
        let first = layout.push(2, None).unwrap();
        let second = layout.push(3, None).unwrap();
        layout.push(1, Some(first)).unwrap();
        layout.push(4, Some(second)).unwrap();
        let trees = layout.trees();
        let runs: Vec<Vec<Vec<(usize, usize)>>> = trees
            .iter()
            .map(|tree| {
                tree.iter()
                    .map(|runs| runs.iter().map(ends).collect())
                    .collect()
            })
            .collect();
        assert_eq!(
            runs,
            [
                [vec![(0, 2)], vec![(0, 2), (5, 6)]],
                [vec![(2, 5)], vec![(2, 5), (6, 10)]]
            ]
        );
    }

    #[test]
    fn a_parent_must_come_first() {
        assert!(Layout::default().push(1, Some(0)).is_err());
        assert!(Layout::default().is_empty());
    }
}
