"""RASD beside vLLM and transformers: the same prompts, the same machine, turn by turn."""
