"""What a user sees: 32 streams over HTTP while a shard, the drafter and a rank are killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import openai
import pytest

from tests.service.running import PROMPTS, Service, processes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

STREAMS = 32
ASK: dict[str, Any] = {
    "model": "rasd",
    "temperature": 0.0,
    "max_tokens": 160,
    "extra_body": {"ignore_eos": True},
}


class Stream(threading.Thread):
    """One request, read to its end."""

    def __init__(self, client: openai.OpenAI, prompt: str) -> None:
        super().__init__(daemon=True)
        self.text, self.finish, self.error = "", "", ""
        self._client, self._prompt = client, prompt

    def run(self) -> None:
        try:
            for chunk in self._client.completions.create(prompt=self._prompt, stream=True, **ASK):
                self.text += chunk.choices[0].text
                self.finish = chunk.choices[0].finish_reason or ""
        except openai.OpenAIError as error:
            self.error = repr(error)


def test_streams_survive_a_shard_a_drafter_and_a_rank(service: Service) -> None:
    url = f"{service.url}/v1"
    client = openai.OpenAI(base_url=url, api_key="none", timeout=200, max_retries=0)
    plain = {
        prompt: client.completions.create(prompt=prompt, **ASK).choices[0].text
        for prompt in PROMPTS
    }
    streams = [Stream(client, PROMPTS[i % len(PROMPTS)]) for i in range(STREAMS)]
    for stream in streams:
        stream.start()
    until(lambda: sum(bool(stream.text) for stream in streams) >= STREAMS // 2, "text")
    for kind in ("ShardActor", "DraftActor", "TargetRank"):
        victim = processes(kind)[0]
        assert any(stream.is_alive() for stream in streams), f"all had ended before {kind}"
        os.kill(victim, signal.SIGKILL)
        until(lambda v=victim, k=kind: v not in processes(k), f"death of {kind}", 5)  # type: ignore[misc]
    for stream in streams:
        stream.join(200)
        assert (stream.error, stream.finish) == ("", "length")
        assert stream.text == plain[stream._prompt]
    for kind, count in (("ShardActor", 2), ("DraftActor", 1), ("TargetRank", 2)):
        until(lambda k=kind, n=count: len(processes(k)) == n, f"{kind} is back", 60)  # type: ignore[misc]
    assert service.status("/ready") == 200
