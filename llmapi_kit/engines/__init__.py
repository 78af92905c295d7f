"""Who can answer a request: models that run here, providers elsewhere, other packages' back ends, and the mock."""
