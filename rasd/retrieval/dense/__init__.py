"""Passages near a prompt in meaning: which corpora are worth asking, and what is copied."""
