"""One forward step at a time: weights and KV memory behind the `Runner` protocol."""
