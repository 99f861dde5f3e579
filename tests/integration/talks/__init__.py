"""Conversations for tests."""
