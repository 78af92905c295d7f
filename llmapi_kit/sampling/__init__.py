"""From logits to text, and from text to token ids: parameters, sampler, stop strings, tokenizer, detokenisation."""
