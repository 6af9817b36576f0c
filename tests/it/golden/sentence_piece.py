"""Makes sentence_piece.json: a small SentencePiece BPE model and how SentencePiece itself tokenizes with it.

Usage: pip install sentencepiece==0.2.1 && python3 sentence_piece.py > sentence_piece.json
"""
import io
import json

import sentencepiece as spm

TEXT = """The quick brown fox jumps over the lazy dog. Is it bigger than a breadbox? No, it is not.
Can you tell me whether it is alive? Yes, it is alive and it can fly. What is it made of? It is made of wood.
Numbers such as 12, 345 and 6789 are common. The user thinks of a thing and the agent asks questions about it.
""" * 4
TEXTS = ["Is it alive?", " two  spaces", "12345 dogs", "naïve 🐦 x\n", "breadboxes and questions", "", "ZZZ"]

model = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=420, model_type="bpe",
    byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
    hard_vocab_limit=False, minloglevel=2)
processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
kinds = []
for i in range(processor.vocab_size()):
    # The token types of GGUF.
    kinds.append(2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1)
print(json.dumps({
    "tokens": [processor.id_to_piece(i) for i in range(processor.vocab_size())],
    "scores": [round(processor.get_score(i), 1) for i in range(processor.vocab_size())],
    "types": kinds,
    "cases": [{"text": text, "ids": processor.encode(text)} for text in TEXTS],
}, ensure_ascii=False))
