"""A user's package of blackboards."""
