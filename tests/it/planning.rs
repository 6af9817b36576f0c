//! Planners against their oracles: mctx's trees, `transformers`' beams, exact solutions, and each other.

mod search;
