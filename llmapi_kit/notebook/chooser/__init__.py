"""Choose a model: what there is, what it needs, what fits."""
