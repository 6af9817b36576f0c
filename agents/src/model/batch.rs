//! What a forward pass over many tokens works on: packed ids, and which of them are scored.

use super::layout::Layout;
use crate::error::{AgentError, Result};

/// Packed sequences, or trees of sequences, in one row of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Who sees whom.
    pub layout: Layout,
    /// The tokens whose log-probabilities are wanted, `[R]`.
    pub scored: Vec<Scored>,
}

/// A token whose log-probability is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The row that predicts it: the token before it in its sequence.
    pub row: u32,
    /// The token.
    pub target: u32,
}

impl Batch {
    /// One sequence with every token scored but the first, which nothing predicts.
    pub fn sequence(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            layout: Layout::sequence(ids.len()),
            scored: (0_u32..)
                .zip(ids.iter().skip(1))
                .map(|(row, target)| Scored {
                    row,
                    target: *target,
                })
                .collect(),
        }
    }

    /// Appends `ids` as a segment that continues `parent`, or as a new sequence, and scores those for which
    /// `scored` is true; returns the segment and, in order, where its scored tokens come in
    /// [`Self::scored`].
    ///
    /// # Errors
    /// When `parent` is no earlier segment, or the first token of a sequence is to be scored.
    pub fn push(
        &mut self,
        ids: &[u32],
        scored: impl IntoIterator<Item = bool>,
        parent: Option<usize>,
    ) -> Result<usize> {
        let start = self.layout.len();
        let segment = self.layout.push(ids.len(), parent)?;
        // The token before the segment's first is the last one on the path that has any.
        let before = std::iter::successors(parent, |segment| self.layout.parent(*segment))
            .find_map(|segment| self.layout.rows(segment).last());
        for (index, (target, scored)) in ids.iter().zip(scored).enumerate() {
            if scored {
                let row = match index {
                    0 => before.ok_or_else(|| {
                        AgentError::Encoding(
                            "the first token of a sequence is predicted by nothing".to_owned(),
                        )
                    })?,
                    _ => start + index - 1,
                };
                self.scored.push(Scored {
                    row: row as u32,
                    target: *target,
                });
            }
        }
        self.ids.extend_from_slice(ids);
        Ok(segment)
    }

    /// T.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Checks that a model can read it.
    ///
    /// # Errors
    /// When a token is not in the vocabulary or a sequence is longer than the context.
    pub(crate) fn check(&self, vocabulary: usize, context: usize) -> Result<()> {
        let targets = self.scored.iter().map(|scored| scored.target);
        if let Some(id) = self
            .ids
            .iter()
            .copied()
            .chain(targets)
            .find(|id| *id as usize >= vocabulary)
        {
            return Err(AgentError::Encoding(format!(
                "token {id} is not in the model's vocabulary of {vocabulary}"
            )));
        }
        let longest = (0..self.layout.segments())
            .map(|segment| self.layout.first_position(segment) + self.layout.rows(segment).len())
            .max();
        match longest {
            Some(tokens) if tokens > context => Err(AgentError::ContextOverflow {
                tokens,
                limit: context,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scored_tokens_are_predicted_by_the_token_before_them() {
        let mut batch = Batch::default();
        let root = batch.push(&[5, 6, 7], [false, false, true], None).unwrap();
        let left = batch.push(&[8, 9], [true, true], Some(root)).unwrap();
        let empty = batch.push(&[], [], Some(left)).unwrap();
        batch.push(&[10], [true], Some(empty)).unwrap();
        batch.push(&[11], [true], Some(root)).unwrap();
        let pairs: Vec<(u32, u32)> = batch.scored.iter().map(|s| (s.row, s.target)).collect();
        assert_eq!(pairs, [(1, 7), (2, 8), (3, 9), (4, 10), (2, 11)]);
        assert!(batch.push(&[1], [true], None).is_err());
        assert_eq!(
            Batch::sequence(&[3, 4]).scored,
            [Scored { row: 0, target: 4 }]
        );
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused() {
        let batch = Batch::sequence(&[1, 2, 3]);
        assert!(batch.check(4, 3).is_ok());
        assert!(
            batch
                .check(3, 3)
                .unwrap_err()
                .to_string()
                .contains("token 3")
        );
        assert!(
            batch
                .check(4, 2)
                .unwrap_err()
                .to_string()
                .contains("3 tokens")
        );
    }
}
