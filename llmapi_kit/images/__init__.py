"""Pictures that come with a request: fetched or decoded within limits, and told apart by their pixels."""
