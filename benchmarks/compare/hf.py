"""A worker that holds `transformers`' own `generate`: plain, prompt lookup, assisted."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks.compare.protocol import Answer, Job, Outcome
from benchmarks.compare.worker import serve


class _Clock(BaseStreamer):
    """Notes when tokens come; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sizes: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())
        self.sizes.append(value.numel())

    def end(self) -> None:
        pass


class Transformers:
    """`generate`, one prompt after another: its speculation knows no batches."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        dtype = getattr(torch, settings["dtype"])
        self._model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype).eval()
        self._how: dict[str, Any] = dict(settings["generate"])
        if "assistant_model" in self._how:
            path = self._how["assistant_model"]
            self._how["assistant_model"] = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)

    def run(self, job: Job) -> Outcome:
        """Runs a job; its concurrency must be 1."""
        if job.concurrency != 1:
            raise ValueError(f"generate answers one at a time; got concurrency {job.concurrency}")
        start = time.perf_counter()
        answers = [self._answer(job, number, start) for number in range(len(job.prompts))]
        return Outcome(time.perf_counter() - start, answers)

    @torch.inference_mode()
    def _answer(self, job: Job, number: int, start: float) -> Answer:
        asked = time.perf_counter()
        clock = _Clock()
        prompt = torch.tensor([job.prompts[number]])
        drawn = {"do_sample": True, "temperature": job.temperature, "top_k": 0, "top_p": 1.0}
        torch.manual_seed(job.seed + number)
        made = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=job.max_tokens,
            min_new_tokens=job.max_tokens,
            streamer=clock,
            **(drawn if job.temperature else {"do_sample": False}),
            **self._how,
        )
        tokens = made[0, prompt.shape[1] :].tolist()
        times = [at - start for at in clock.times[1:]]
        first = clock.sizes[1]
        return Answer(tokens, len(times), first, asked - start, times[0], times[-1])


def main() -> None:
    """Serves the bench."""
    serve(Transformers)


if __name__ == "__main__":
    main()
