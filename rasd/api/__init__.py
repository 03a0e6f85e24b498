"""The OpenAI HTTP surface over an engine. Knows nothing of Ray, models or how tokens are made."""
