"""The review flow with less patience, for tests in which somebody is missing."""
