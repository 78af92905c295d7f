"""Models in this process that make vectors or scores and write no text: embedding models and rerankers."""
