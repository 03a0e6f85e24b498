"""The models that the benchmarks measure on: tasks, a target trained on them, a drafter."""
