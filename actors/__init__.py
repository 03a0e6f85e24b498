"""Ray around the library, and nothing else: an actor holds one library object and forwards."""
