"""From a model's name to an engine in memory, one step a module; see docs/architecture.md."""
