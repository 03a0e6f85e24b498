"""The script behind every number this project publishes, and its last result."""
