"""Conversations in an agent's hands: when they end, how they are decided, what is said in them."""
