"""A worker that holds vLLM's engine, in vLLM's own environment.

In one process and with both cores at the layers, which is its fastest way here; without prefix
caching, which would answer repeated prompts from memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.compare.protocol import Job, Outcome
from benchmarks.compare.worker import drive, serve


class Vllm:
    """vLLM's engine, stepped."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import EngineArgs, LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=settings["model"],
                dtype=settings["dtype"],
                max_model_len=settings["max_model_len"],
                max_num_seqs=settings["max_sequences"],
                kv_cache_memory_bytes=kv_bytes(settings),
                enable_prefix_caching=False,
                disable_log_stats=True,
                speculative_config=settings.get("speculative"),
                **settings.get("extra", {}),
            )
        )

    def add(self, number: int, job: Job) -> None:
        """Takes in one prompt."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            seed=job.seed + number if job.temperature else None,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        self._engine.add_request(str(number), {"prompt_token_ids": job.prompts[number]}, params)

    def step(self) -> list[tuple[int, list[int], bool]]:
        """What one step of the engine brought."""
        return [
            (int(output.request_id), list(output.outputs[0].token_ids), output.finished)
            for output in self._engine.step()
        ]

    def run(self, job: Job) -> Outcome:
        """Runs a job, as if it were the first one."""
        return drive(self, job)


def kv_bytes(settings: dict[str, Any]) -> int:
    """What ``kv_slots`` tokens of keys and values take, and two blocks that are begun."""
    config = json.loads((Path(settings["model"]) / "config.json").read_text())
    width = config["num_key_value_heads"] * config["head_dim"]
    size = {"bfloat16": 2, "float32": 4}[settings["dtype"]]
    layers = config["num_hidden_layers"] + bool(settings.get("speculative"))  # EAGLE has a layer
    return int((settings["kv_slots"] + 256) * layers * 2 * width * size)


def main() -> None:
    """Serves the bench."""
    serve(Vllm)


if __name__ == "__main__":
    main()
