"""Configurations that come with RASD, and the embedded models."""
