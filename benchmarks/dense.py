"""Whether it pays to select by meaning: passages near a prompt, and the corpora they come from.

Three tasks, as in `benchmarks.acceptance`. *Right tokens*: at random places of true answers, how
many of the next ten tokens the trie found there holds. *Acceptance*: tokens per step of the real
model. *Corpora*: the same with the standard library hidden among other corpora. Every way runs
on the same prompts; greedy, float32.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import code_prompts, question_prompts, save
from rasd import LLM, SamplingParams
from rasd.config import EMBEDDED, CorpusConfig, DenseConfig, RetrievalConfig, parse_config
from rasd.retrieval import LocalRetriever
from rasd.retrieval.dense.local import DenseRetriever
from rasd.stages import RetrieveQuery, RetrieveRequest
from rasd.train.text import questions
from rasd.trie import Continuations

STDLIB = "stdlib"
TASKS = ("questions", "new questions", "code")
WAYS: dict[str, dict[str, Any] | None] = {
    "corpus": None,
    "beside": {"ask": "all"},
    "selected": {"ask": "selected"},
    "selected, none copied": {"ask": "selected", "passages": 0},
    "instead": {"ask": "none"},
    "instead, 16": {"ask": "none", "passages": 16},
    "instead, 256": {"ask": "none", "passages": 256},
}
OTHERS = {
    "headers": ("/usr/include", "*.h"),
    "perl": ("/usr/share/perl", "*.p[lm]"),
    "notes": ("/usr/share/doc", "*"),
}
_OTHER_BYTES = 6_000_000


class Counting:
    """A retriever that notes how long its calls take and how often the corpora are asked."""

    def __init__(self, inner: LocalRetriever) -> None:
        self.inner = inner
        self.clear()
        asked = inner.store.search

        def search(queries: Any, settings: Any) -> Any:
            self.asked += len(queries)
            self.corpora += sum(len(query.corpora) for query in queries)
            return asked(queries, settings)

        inner.store.search = search  # type: ignore[method-assign]

    def clear(self) -> None:
        """Counts from here on."""
        self.queries = self.asked = self.corpora = 0
        self.seconds: list[float] = []
        self.first_seconds: list[float] = []
        self._seen: set[int] = set()

    def observe(self, sequence: int, tokens: Any) -> None:
        self.inner.observe(sequence, tokens)

    def release(self, sequence: int) -> None:
        self.inner.release(sequence)

    def retrieve(self, request: RetrieveRequest) -> Any:
        new = [query for query in request.queries if query.sequence not in self._seen]
        self._seen |= {query.sequence for query in new}
        start = time.perf_counter()
        answer = self.inner.retrieve(request)
        took = time.perf_counter() - start
        self.queries += len(request.queries)
        if new:
            self.first_seconds.append(took / len(new))
        else:
            self.seconds.append(took / len(request.queries))
        return answer

    def close(self) -> None:
        self.inner.close()

    def told(self) -> dict[str, float]:
        """Calls per query and sequence, and milliseconds."""
        return {
            "asked_per_query": self.asked / max(self.queries, 1),
            "corpora_per_query": self.corpora / max(self.queries, 1),
            "first_query_ms": 1e3 * float(np.median(self.first_seconds or [0])),
            "query_ms": 1e3 * float(np.median(self.seconds or [0])),
        }


def retriever_of(stages: Any, way: dict[str, Any] | None) -> Counting:
    """One way over the same store and the same indexes."""
    store, indexes, vocabulary = stages
    store.__dict__.pop("search", None)
    settings = RetrievalConfig()
    plain = LocalRetriever(store, settings)
    if way is None:
        return Counting(plain)
    dense = DenseConfig(**way)
    return Counting(DenseRetriever(plain, settings, dense, indexes, vocabulary))


def tail_cases(
    llm: LLM, task: str, count: int, places: int
) -> Iterator[tuple[Any, Any, list[int]]]:
    """Prompts, true continuations, and places in them to ask at."""
    draw = np.random.default_rng(1)
    if task == "code":
        from rasd.train.text import documents

        texts = [document.text for document in documents(held_out=True)]
        rows = draw.permutation(len(texts))[:count]
        pairs = [(llm.encode(texts[i])[:192], llm.encode(texts[i])[192:320]) for i in rows.tolist()]
    else:
        asked = questions(held_out=task == "new questions")
        rows = draw.permutation(len(asked))[:count]
        pairs = []
        for i in rows.tolist():
            prompt = llm.encode_chat(asked[i].messages()[:-1])
            answer = llm.tokenizer(asked[i].answer, add_special_tokens=False).input_ids
            pairs.append((prompt, np.array(answer, np.int32)))
    for prompt, answer in pairs:
        if len(answer) > 2:
            yield prompt, answer, draw.integers(0, len(answer) - 1, places).tolist()


def right(found: Continuations, truth: list[int]) -> int:
    """How many of the next tokens are a path of the trie."""
    pairs = zip(found.parents.tolist(), found.tokens.tolist(), strict=True)
    children = {pair: node for node, pair in enumerate(pairs)}
    node, count = -1, 0
    for token in truth:
        if (node, token) not in children:
            break
        node = children[node, token]
        count += 1
    return count


def right_tokens(llm: LLM, counting: Counting, task: str, corpora: tuple[str, ...]) -> Any:
    """The mean over all places of a task."""
    scores: list[int] = []
    numbers = itertools.count()
    for prompt, answer, places in tail_cases(llm, task, 200, 6):
        sequence = next(numbers)
        counting.observe(sequence, prompt)
        text = np.concatenate([prompt, answer])
        for place in places:
            at = len(prompt) + place
            query = RetrieveQuery(sequence, text[max(at - 16, 0) : at], corpora)
            found = counting.retrieve(RetrieveRequest(0, [query])).wait(1).found[0]
            scores.append(right(found, text[at : at + 10].tolist()))
        counting.release(sequence)
    return {"right": float(np.mean(scores)), **counting.told()}


def acceptance(llm: LLM, counting: Counting, task: str, options: Any) -> Any:
    """Tokens per step with corpora alone, and with everything."""
    if task == "code":
        prompts = code_prompts(llm, options.prompts)
    else:
        prompts = question_prompts(llm, options.prompts, held_out=task == "new questions")
    told = {}
    for mode in ("corpus", "rasd"):
        counting.clear()
        llm._engine.replace_corpus(counting)
        params = SamplingParams(
            max_tokens=options.tokens,
            temperature=0.0,
            speculation=mode,
            nodes=options.nodes,
            corpora=(STDLIB,),
        )
        answers = [answer.outputs[0] for answer in llm.generate(prompts, params)]
        steps = sum(answer.statistics.steps for answer in answers)
        tokens = sum(answer.statistics.tokens for answer in answers)
        told[mode] = {"acceptance_length": tokens / steps, **counting.told()}
    return told


def folders(place: Path) -> list[CorpusConfig]:
    """The other corpora, of some megabytes each, copied from what this machine has."""
    corpora = []
    for name, (root, pattern) in OTHERS.items():
        folder = place / name
        folder.mkdir()
        left = _OTHER_BYTES
        for number, path in enumerate(sorted(Path(root).rglob(pattern))):
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            if 256 < len(data) < 2**18 and b"\0" not in data and left > 0:
                (folder / f"{number}.txt").write_bytes(data)
                left -= len(data)
        corpora.append(CorpusConfig(name=name, source=str(folder)))
    return corpora


def several_corpora(llm: LLM, stages: Any) -> dict[str, Any]:
    """Right tokens where the standard library is one of four corpora that all are asked."""
    names = (*OTHERS, STDLIB)
    ways = ("corpus", "selected, none copied", "selected")
    return {
        task: {way: right_tokens(llm, retriever_of(stages, WAYS[way]), task, names) for way in ways}
        for task in TASKS
    }


def build(llm: LLM) -> tuple[Any, dict[str, float]]:
    """Indexes all passages; how fast, and what they take."""
    from rasd.retrieval.dense.load import load_embedder
    from rasd.retrieval.dense.store import DenseStore

    start = time.perf_counter()
    embedder = load_embedder("tokens", str(EMBEDDED / "target"), None, llm.tokenizer)
    loaded = time.perf_counter()
    store = llm._stages.corpus.store
    indexes = DenseStore(embedder, DenseConfig())
    indexes.refresh([store])
    took = time.perf_counter() - loaded
    return (store, indexes, len(llm.tokenizer)), {
        "load_s": loaded - start,
        "tokens_per_s": store.tokens / took,
        "passages": indexes.passages,
        "bytes_per_passage": indexes.bytes / indexes.passages,
        "bytes_per_token": indexes.bytes / store.tokens,
    }


def shown(result: dict[str, Any]) -> Table:
    """The table of results."""
    out = Table(title="dense selection")
    for column in ("task", "way", "right of 10", "corpus", "rasd", "asked", "first ms", "ms"):
        out.add_column(column, justify="left" if column in ("task", "way") else "right")
    for task, ways in result["tasks"].items():
        for way, told in ways.items():
            found, real = told["right_tokens"], told.get("acceptance", {})
            out.add_row(
                task,
                way,
                f"{found['right']:.2f}",
                *(
                    f"{real[m]['acceptance_length']:.2f}" if m in real else ""
                    for m in ("corpus", "rasd")
                ),
                f"{found['asked_per_query']:.2f}",
                f"{found['first_query_ms']:.2f}",
                f"{found['query_ms']:.3f}",
            )
    for task, ways in result["corpora"].items():
        for way, found in ways.items():
            out.add_row(
                task,
                f"4 corpora: {way}",
                f"{found['right']:.2f}",
                "",
                "",
                f"{found['corpora_per_query']:.2f}",
                f"{found['first_query_ms']:.2f}",
                f"{found['query_ms']:.3f}",
            )
    return out


def run(llm: LLM, options: Any) -> dict[str, Any]:
    """Everything."""
    stages, built = build(llm)
    result: dict[str, Any] = {"index": built, "tasks": {}, "corpora": several_corpora(llm, stages)}
    for task in TASKS:
        result["tasks"][task] = {}
        for name, way in WAYS.items():
            counting = retriever_of(stages, way)
            told = {"right_tokens": right_tokens(llm, counting, task, (STDLIB,))}
            if "," not in name:
                told["acceptance"] = acceptance(llm, retriever_of(stages, way), task, options)
            result["tasks"][task][name] = told
            Console(stderr=True).print(task, name, told["right_tokens"]["right"])
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24, help="per task")
    parser.add_argument("--tokens", type=int, default=96, help="new tokens per prompt")
    parser.add_argument("--nodes", type=int, default=32, help="budget beside the root")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        settings = parse_config({"datastore": {"root": f"{place}/store"}})
        llm = LLM(
            dtype="float32",
            corpora=[CorpusConfig(name=STDLIB, source=STDLIB), *folders(Path(place))],
            settings=settings,
        )
        result = run(llm, options)
        save("dense", {"settings": vars(options), **result})
        Console(width=120).print(shown(result))
        llm.close()


if __name__ == "__main__":
    main()
