"""A user's package of hierarchies: bosses, specialists, and what puts their results together."""
