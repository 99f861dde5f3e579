"""A user's package whose tasks call somebody else's service, and that service, which fails in every way it can."""
