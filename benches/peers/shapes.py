"""The shapes of `socratiq bench --shape`, as `transformers` describes them."""
SHAPES = {
    "smollm2-135m": dict(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192,
                         rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True),
    "small": dict(vocab_size=4096, hidden_size=256, num_hidden_layers=6, num_attention_heads=4,
                  num_key_value_heads=4, intermediate_size=1024, max_position_embeddings=8192,
                  rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True),
}
