"""Speed on one GPU: plain decoding, drafting and RASD, beside transformers and the bandwidth limit.

    python -m benchmarks.gpu                 # the shipped pair, enlarged to 7B parameters
    python -m benchmarks.gpu --rehearse      # the same on a CPU, small: does the script work?

Needs neither Ray nor a network, and takes under 8 minutes. Plain decoding reads all weights and the
sequence's keys and values once per token: the *limit* is those bytes over the measured bandwidth of
a copy. First the recorded forward is compared with the plain one, token by token of a random tree.
Without a CUDA device nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.common import save
from benchmarks.enlarge import enlarge
from rasd import LLM, SamplingParams
from rasd.config import EMBEDDED, parse_config
from rasd.params import Speculation
from rasd.stages import Admission, VerifyRequest, Work
from rasd.train.text import documents

MODES: Final[tuple[Speculation, ...]] = ("off", "draft", "rasd")


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads or writes, both counted; the best of ten."""
    size = 2**31 if device.type == "cuda" else 2**27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * size / seconds


def timed(call: Any, device: torch.device) -> float:
    """Seconds that a call keeps the device busy."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def prompts(llm: LLM, tokens: int, count: int) -> list[list[int]]:
    """``count`` stretches of held-out source, ``tokens`` long, each from another place."""
    text = [int(t) for doc in documents(held_out=True) for t in llm.encode(doc.text)]
    while len(text) < count * tokens:
        text += text
    return [text[i * tokens : (i + 1) * tokens] for i in range(count)]


def worst_error(llm: LLM) -> float:
    """Largest difference between logits of a tree, recorded and not, relative to their size."""
    target: Any = llm._stages.target
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, target.info.vocabulary, 24).astype(np.int32)
    parents = np.asarray([-1, *(rng.integers(i) for i in range(1, 24))], np.int32)
    chunk = rng.integers(2, target.info.vocabulary, 200).astype(np.int32)
    chain = np.arange(-1, 199, dtype=np.int32)
    empty = np.zeros(0, np.int32)
    params = SamplingParams(temperature=0.0, seed=0, max_tokens=4096)
    work = Work(1 << 50, tokens, parents, 1, True)
    target.verify(VerifyRequest(0, [], [Admission(1 << 50, chunk, empty, params)], []))
    target.verify(VerifyRequest(0, [], [], [Work(1 << 50, chunk, chain, 200, False)]))
    runner, found = target._runner, []
    for body in (target._body, getattr(target._body, "_decoder", target._body)):
        runner._body = body
        found.append(runner.forward([work]).logits[0].float().clone())
        target.cache.commit(1 << 50, [])
    runner._body = target._body
    target.verify(VerifyRequest(0, [1 << 50], [], []))
    return float(((found[0] - found[1]).norm(dim=-1) / found[1].norm(dim=-1)).max())


def ours(llm: LLM, asked: list[list[int]], mode: Speculation, tokens: int) -> dict[str, float]:
    """Tokens per second of one mode, the prompts one after the other."""
    params = SamplingParams(max_tokens=tokens, temperature=0.0, speculation=mode, ignore_eos=True)
    found = []
    for prompt in asked:
        first = SamplingParams(max_tokens=1, temperature=0.0, speculation="off", ignore_eos=True)
        llm.generate([prompt], first)  # from now on the prompt is in the prefix cache
        began = time.perf_counter()
        statistic = llm.generate([prompt], params)[0].outputs[0].statistics
        seconds = time.perf_counter() - began
        found.append((statistic.tokens / seconds, statistic.acceptance_length))
    rates, lengths = zip(*found, strict=True)
    return {
        "tokens_per_s": statistics.median(rates),
        "acceptance_length": statistics.median(lengths),
    }


def theirs(
    path: Path, asked: list[list[int]], tokens: int, device: torch.device
) -> dict[str, float]:
    """transformers' own generation; what the first token takes is left out, as it is above."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(device).eval()

    def generate(prompt: list[int], new: int) -> float:
        ids = torch.tensor([prompt], device=device)
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": new}
        mask = torch.ones_like(ids)
        return timed(
            lambda: model.generate(ids, attention_mask=mask, max_new_tokens=new, **options), device
        )

    generate(asked[0], 4)
    rates = [(tokens - 1) / (generate(p, tokens) - generate(p, 1)) for p in asked]
    return {"tokens_per_s": statistics.median(rates), "acceptance_length": 1.0}


def pair(directory: Path, size: str, positions: int) -> tuple[Path, Path, int]:
    """Target and head of a size, for ``positions`` tokens, and the target's bytes."""
    target, head = EMBEDDED / "target", EMBEDDED / "eagle"
    if size != "shipped":
        enlarge(EMBEDDED, directory, size)
        target, head = directory / "target", directory / "eagle"
        for path in (target / "config.json", head / "config.json"):
            config = json.loads(path.read_text())
            config["max_position_embeddings"] = positions
            path.write_text(json.dumps(config))
    return target, head, sum(file.stat().st_size for file in target.glob("*.safetensors"))


def settings(device: str, slots: int) -> dict[str, Any]:
    """The same for all modes; requests choose theirs."""
    return {
        "target": {"device": device, "kv_slots": slots},
        "drafter": {"device": device, "kv_slots": slots},
        "engine": {"chunk_tokens": 2048 if device == "cuda" else 256},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Tokens per second by context and system."""
    out = Table(title="one sequence, greedy")
    for column in ("context", "system", "tokens/s", "tokens/step", "of the limit"):
        out.add_column(column, justify="left" if column == "system" else "right")
    for row in rows:
        share = f"{row['tokens_per_s'] / row['limit']:.2f}"
        rate, length = f"{row['tokens_per_s']:.1f}", f"{row['acceptance_length']:.2f}"
        out.add_row(f"{row['context']}", row["system"], rate, length, share)
    return out


def slot_bytes(target: Any) -> float:
    """Of keys and values, per token."""
    layers = [target.cache.states(layer) for layer in range(len(target.cache))]
    return float(sum(s.nbytes for both in layers for s in both) / target.info.kv_slots)


def measure(options: argparse.Namespace, device: torch.device, directory: Path) -> dict[str, Any]:
    """All rows, and what they stand on."""
    longest = max(options.contexts) + options.tokens + 64
    path, head, weights = pair(directory, options.size, longest + 64)
    rate = bandwidth(device)
    config = parse_config(settings(device.type, 2 * longest + 1024))
    llm = LLM(str(path), drafter=str(head), corpora=None, settings=config)
    result = {"bandwidth": rate, "weights": weights, "worst_error": worst_error(llm)}
    slot = slot_bytes(llm._stages.target)
    limits = {context: rate / (weights + slot * context) for context in options.contexts}
    asked = {context: prompts(llm, context, options.prompts) for context in options.contexts}
    rows: list[dict[str, Any]] = []
    for context in options.contexts:
        for mode in MODES:
            ours(llm, asked[context][:1], mode, options.tokens)  # records and compiles
            found = ours(llm, asked[context], mode, options.tokens)
            rows.append({"context": context, "system": mode, **found})
    llm.close()
    del llm
    torch.cuda.empty_cache()
    for context in options.contexts:
        found = theirs(path, asked[context], options.tokens, device)
        rows.append({"context": context, "system": "transformers", **found})
    return {**result, "rows": [{**row, "limit": limits[row["context"]]} for row in rows]}


def main() -> None:
    """Command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--size", default="7b", help="shipped, 100m, 400m or 7b")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 32_000])
    parser.add_argument("--tokens", type=int, default=192, help="new tokens per prompt")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with little")
    options = parser.parse_args()
    console = Console()
    if options.rehearse:
        options.size, options.contexts, options.tokens = "shipped", [128, 512], 16
    elif not torch.cuda.is_available():
        console.print("no CUDA device: nothing was measured (--rehearse runs it on a CPU)")
        return
    device = torch.device("cpu" if options.rehearse else "cuda")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        result = measure(options, device, Path(directory))
    console.print(table(result["rows"]))
    console.print(
        f"a copy moves {result['bandwidth'] / 1e9:.0f} GB/s; the recorded forward differs from the "
        f"plain one by {result['worst_error']:.1e}; {time.perf_counter() - began:.0f} s in all"
    )
    if not options.rehearse:
        name = torch.cuda.get_device_name()
        console.print(f"in {save('gpu', {'device': name, 'settings': vars(options), **result})}")


if __name__ == "__main__":
    main()
