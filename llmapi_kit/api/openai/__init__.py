"""OpenAI's API: chat completions, stored ones too, completions, embeddings, models; and what vLLM has beside it."""
