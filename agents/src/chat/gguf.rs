//! The tokenizer inside a GGUF file.

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::tokenizer::Tokenizer;
use crate::error::{AgentError, Result};
use crate::model::GgufFile;

/// How GPT-2 cuts text into words is built into byte-level pre-tokenization; these cut it otherwise.
/// Patterns as in llama.cpp's `llama-vocab.cpp`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of GGUF.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer of `file`.
///
/// # Errors
/// When a part is missing, or the kind of tokenizer is not supported.
pub(super) fn tokenizer(file: &GgufFile) -> Result<Tokenizer> {
    let tokens = file.texts("tokenizer.ggml.tokens")?;
    let mut tokenizer = match file.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(file, &tokens)?,
        "llama" => sentence_piece(file, &tokens)?,
        other => return Err(file.refuse("tokenizer.ggml.model", other, "gpt2, llama")),
    };
    let types = file.integers("tokenizer.ggml.token_type")?;
    let added = tokens
        .iter()
        .zip(&types)
        .filter_map(|(token, kind)| match *kind {
            CONTROL => Some(AddedToken::from(*token, true).normalized(false)),
            USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
            _ => None,
        });
    tokenizer.add_tokens(added).map_err(failed)?;
    let adds_start = matches!(
        file.value("tokenizer.ggml.add_bos_token"),
        Some(Value::Bool(true))
    );
    if adds_start
        && let Some(id) = file.count_if_any("tokenizer.ggml.bos_token_id")?
        && let Some(token) = tokens.get(id)
    {
        let start = TemplateProcessing::builder()
            .try_single(format!("{token} $A"))
            .and_then(|template| template.try_pair(format!("{token} $A $B")))
            .map_err(|error| AgentError::Encoding(format!("the file's `{token}`: {error}")))?
            .special_tokens(vec![((*token).to_owned(), id as u32)])
            .build()
            .map_err(|error| AgentError::Encoding(format!("the file's `{token}`: {error}")))?;
        tokenizer.with_post_processor(Some(start));
    }
    Ok(Tokenizer::new(tokenizer))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`map_err` hands it over by value"
)]
fn failed(error: tokenizers::Error) -> AgentError {
    AgentError::Encoding(format!("the file's tokenizer: {error}"))
}

fn vocabulary(tokens: &[&str]) -> Vocab {
    (0_u32..)
        .zip(tokens)
        .map(|(id, token)| ((*token).to_owned(), id))
        .collect()
}

/// Byte-level BPE, as GPT-2 and most models since.
fn byte_level(file: &GgufFile, tokens: &[&str]) -> Result<tokenizers::Tokenizer> {
    let merges = file
        .texts("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(file.refuse(
                "tokenizer.ggml.merges",
                merge,
                "two tokens with a space between",
            )),
        })
        .collect::<Result<Vec<_>>>()?;
    let pre = file.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let (split, nfc, ignore_merges): (Option<PreTokenizerWrapper>, bool, bool) = match pre {
        "gpt-2" | "default" | "olmo" | "mpt" | "jais" | "phi-2" => (None, false, false),
        "smollm" | "codeshell" | "refact" | "command-r" => {
            (Some(Digits::new(true).into()), false, false)
        }
        "llama3" | "llama-v3" | "llama-bpe" => (Some(cut(LLAMA3)?), false, true),
        "qwen2" | "deepseek-r1-qwen" => (Some(cut(QWEN2)?), true, false),
        "tekken" => (Some(cut(TEKKEN)?), false, true),
        other => {
            let known = "gpt-2, default, olmo, mpt, jais, phi-2, smollm, codeshell, refact, command-r, llama-bpe, \
                         llama3, llama-v3, qwen2, deepseek-r1-qwen, tekken";
            return Err(file.refuse("tokenizer.ggml.pre", other, known));
        }
    };
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(failed)?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    // A pattern of its own replaces GPT-2's; digits are cut off beside it.
    let own_pattern = matches!(split, Some(PreTokenizerWrapper::Split(_)));
    let bytes = ByteLevel::new(false, true, !own_pattern);
    let steps = split.into_iter().chain([bytes.into()]).collect();
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    if nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    Ok(tokenizer)
}

fn cut(pattern: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(failed)
}

/// `SentencePiece`'s BPE, as Llama 2, Mistral and TinyLlama: pieces with scores, spaces written as `▁`, bytes for
/// what is not in the vocabulary.
fn sentence_piece(file: &GgufFile, tokens: &[&str]) -> Result<tokenizers::Tokenizer> {
    let scores = file.numbers("tokenizer.ggml.scores")?;
    let vocabulary = vocabulary(tokens);
    // SentencePiece joins the pair whose result scores highest. So every way to make a piece of two others
    // is a merge, and merges rank by score.
    let mut merges: Vec<(f64, String, String)> = Vec::new();
    for (token, score) in tokens.iter().zip(&scores) {
        let mut made: Vec<(&str, &str)> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter(|(left, right)| {
                vocabulary.contains_key(*left) && vocabulary.contains_key(*right)
            })
            .collect();
        made.sort_by_key(|(left, right)| (vocabulary[*left], vocabulary[*right]));
        merges.extend(
            made.into_iter()
                .map(|(l, r)| (*score, l.to_owned(), r.to_owned())),
        );
    }
    merges.sort_by(|a, b| {
        let key = |m: &(f64, String, String)| (m.1.chars().count(), m.2.chars().count());
        b.0.total_cmp(&a.0).then_with(|| key(b).cmp(&key(a)))
    });
    let merges = merges
        .into_iter()
        .map(|(_, left, right)| (left, right))
        .collect();
    let unknown = file
        .count_if_any("tokenizer.ggml.unknown_token_id")?
        .unwrap_or(0);
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(token) = tokens.get(unknown) {
        builder = builder.unk_token((*token).to_owned());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(builder.build().map_err(failed)?);
    let prefix = !matches!(
        file.value("tokenizer.ggml.add_space_prefix"),
        Some(Value::Bool(false))
    );
    let spaces = Replace::new(" ", "▁").map_err(failed)?;
    let mut normalizers = Vec::new();
    if prefix {
        normalizers.push(Prepend::new("▁".to_owned()).into());
    }
    normalizers.push(spaces.into());
    tokenizer
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(failed)?;
    let mut decoders = vec![
        Replace::new("▁", " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}
