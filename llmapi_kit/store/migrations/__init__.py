"""How older tables become those of `llmapi_kit.store.tables`, step by step; run by `llmapi_kit.store.migrate`."""
