"""The ``rasd`` command. Talks to a running service over HTTP only; trains and verifies offline."""

from rasd.cli.main import app, main

__all__ = ["app", "main"]
