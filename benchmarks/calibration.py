"""What scores are worth: acceptance length of ways to fuse the same proposals, and reliability.

The target decodes plainly while all sources are asked at every position. What they said is then
replayed: each way builds its trees from it, walks them along the text, and so needs no model.
Acceptance is what the engine would see with a fixed budget of nodes; no time is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.acceptance import TASKS, prompts_of
from benchmarks.common import save
from rasd import LLM, SamplingParams
from rasd.config import AppConfig, CorpusConfig, RetrievalConfig, SpeculationConfig
from rasd.engine.branches import FusedTree
from rasd.engine.calibration import Calibration
from rasd.engine.round import Round
from rasd.engine.speculate import Behind, Proposals, candidates, graft, leaves_to_extend
from rasd.params import Speculation
from rasd.retrieval import PromptRetriever
from rasd.stages import RetrieveQuery, Retriever, RetrieveRequest
from rasd.tree import CORPUS, PROMPT, DraftTree, Int32s, cut, path_to

EDGES: Final = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
RETRIEVAL: Final = RetrievalConfig()


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make trees, and the sources it uses."""

    name: str
    config: SpeculationConfig
    mode: Speculation = "rasd"


def ways(extend: int) -> list[Way]:
    """What is compared."""
    static = SpeculationConfig(scores="static", extend=0)
    route = SpeculationConfig(scores="static", extend=0, combine="route")
    return [
        Way("draft", static, "draft"),
        Way("prompt", static, "prompt"),
        Way("corpus", static, "corpus"),
        Way("routing", route),
        Way("static", static),
        Way("calibrated draft", SpeculationConfig(extend=0), "draft"),
        Way("calibrated", SpeculationConfig(extend=0)),
        Way("calibrated, extended", SpeculationConfig(extend=extend)),
    ]


@dataclass(frozen=True, slots=True)
class Trace:
    """A text, and what the sources proposed behind its first n tokens, by n.

    ``decided`` is the length of the prompt.
    """

    tokens: list[int]
    decided: int
    proposals: dict[int, Proposals]
    corpora: tuple[str, ...]


@dataclass(slots=True)
class Reliability:
    """Chances of nodes whose parents were accepted, and whether they were."""

    chances: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)

    def note(self, tree: FusedTree, decided: list[int]) -> None:
        """Every child of every node on the path."""
        at: dict[int, int] = {0: 0}
        for node in range(1, len(tree)):
            above = int(tree.parents[node])
            if above in at and at[above] < len(decided):
                hit = int(tree.tokens[node]) == decided[at[above]]
                if hit:
                    at[node] = at[above] + 1
                below = float(tree.scores[node]) / max(float(tree.scores[above]), 1e-9)
                self.chances.append(min(below, 1.0))
                self.hits.append(hit)

    def bins(self) -> list[dict[str, float]]:
        """Per bin how many nodes, the mean chance, and the share that was accepted."""
        chances, hits = np.array(self.chances), np.array(self.hits)
        which = np.clip(np.searchsorted(EDGES, chances, "right") - 1, 0, len(EDGES) - 2)
        return [
            {
                "from": EDGES[i],
                "nodes": int((which == i).sum()),
                "predicted": round(float(chances[which == i].mean()), 4),
                "observed": round(float(hits[which == i].mean()), 4),
            }
            for i in range(len(EDGES) - 1)
            if (which == i).any()
        ]

    def loss(self) -> float:
        """Log-loss per accepted token, in nats."""
        chances, hits = np.clip(self.chances, 1e-3, 1 - 1e-3), np.array(self.hits)
        return float(-np.log(np.where(hits, chances, 1 - chances)).sum() / max(hits.sum(), 1))


# --- recording ----------------------------------------------------------------------------------


def record(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Trace]:
    """Decodes plainly, and notes what was proposed at every step."""
    seen: dict[int, dict[int, Proposals]] = {}

    def keep(each: Round, config: SpeculationConfig) -> None:
        seen.setdefault(each.sequence.number, {})[len(each.sequence.tokens)] = each.proposals

    with patch.object(Round, "build", keep):
        answers = llm.generate(prompts, params)
    said = [answer.outputs[0].token_ids for answer in answers]
    return [
        Trace([*prompt, *answer], len(prompt), seen[number], params.corpora or llm.corpora)
        for number, prompt, answer in zip(sorted(seen), prompts, said, strict=True)
    ]


# --- replaying ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Replay:
    """One way on some traces, which run side by side as in a batch."""

    way: Way
    nodes: int
    corpus: Retriever | None
    calibration: Calibration
    reliability: Reliability = field(default_factory=Reliability)

    def run(self, traces: list[Trace]) -> float:
        """The acceptance length."""
        live = [(trace, trace.decided + 1) for trace in traces]  # the first token is the target's
        steps = tokens = 0
        while live:
            later = []
            for trace, at in live:
                if at in trace.proposals and at < len(trace.tokens):
                    gained = self._step(trace, at)
                    steps, tokens = steps + 1, tokens + gained
                    later.append((trace, at + gained))
            live = later
        return tokens / max(steps, 1)

    def _step(self, trace: Trace, at: int) -> int:
        config, proposals = self.way.config, trace.proposals[at]
        rest = trace.tokens[at:]
        depth = len(rest) - 1
        known: dict[str, Any] = {"depth": depth, "calibration": self.calibration}
        tree = candidates(trace.tokens[at - 1], proposals, config, mode=self.way.mode, **known)
        leaves = leaves_to_extend(tree, config)
        if leaves:
            proposals = replace(proposals, behind=self._behind(trace, at, tree, leaves))
            tree = graft(tree, proposals, **known)
        decided = rest[: accepted(cut(tree, self.nodes), rest) + 1]
        self.reliability.note(tree, decided)
        self.calibration.learn(tree, np.asarray(decided, np.int32))
        return len(decided)

    def _behind(
        self, trace: Trace, at: int, tree: FusedTree, leaves: list[int]
    ) -> tuple[Behind, ...]:
        known = np.asarray(trace.tokens[:at], np.int32)
        aheads = [tree.tokens[path_to(tree.parents, leaf)[1:]] for leaf in leaves]
        queries = [RetrieveQuery(0, tail(known, a), trace.corpora, ahead=a) for a in aheads]
        prompt = PromptRetriever(RETRIEVAL)
        prompt.observe(0, known)
        asked = [(CORPUS, self.corpus)] if self.corpus is not None else []
        return tuple(
            Behind(leaf, kind, found)
            for kind, retriever in [*asked, (PROMPT, prompt)]
            for leaf, found in zip(
                leaves, retriever.retrieve(RetrieveRequest(0, queries)).wait(0).found, strict=True
            )
            if len(found)
        )


def tail(known: Int32s, ahead: Int32s) -> Int32s:
    """The newest tokens, those ahead included."""
    return np.concatenate([known, ahead])[-RETRIEVAL.suffix_max :].astype(np.int32)


def accepted(tree: DraftTree, rest: list[int]) -> int:
    """How many nodes of the tree the text follows."""
    node = 0
    for depth, token in enumerate(rest):
        below = np.flatnonzero((tree.parents == node) & (tree.tokens == token))
        if len(below) == 0:
            return depth
        node = int(below[0])
    return len(rest) - 1


# --- the whole ----------------------------------------------------------------------------------


def shipped(params: SamplingParams, count: int) -> tuple[dict[str, list[Trace]], Retriever | None]:
    """Traces of the model that comes with RASD, by task, and its corpora."""
    llm = LLM(speculation=patient())
    traces = {task: record(llm, prompts_of(llm, task, count), params) for task in TASKS}
    return traces, llm._stages.corpus


def trained(params: SamplingParams, count: int) -> tuple[dict[str, list[Trace]], Retriever | None]:
    """The same of the model that the benchmarks are run with (`make bench-models`)."""
    from benchmarks.compare import texts
    from benchmarks.models import paths, tasks

    settings = AppConfig.model_validate({"datastore": {"root": str(paths.ROOT / "corpora")}})
    llm = LLM(
        str(paths.target("base")),
        drafter=str(paths.drafter("base")),
        corpora=[CorpusConfig(name=n, source=str(p)) for n, p in texts.corpora().items()],
        speculation=patient(),
        settings=settings,
    )
    traces = {}
    for task in tasks.TASKS:
        prompts = texts.task_prompts(task, llm.tokenizer)[:count]
        asked = replace(params, corpora=(texts.corpus_of(task),))
        traces[task] = record(llm, prompts, asked)
    return traces, llm._stages.corpus


def patient() -> SpeculationConfig:
    """Asks everybody every time, and waits."""
    return SpeculationConfig(
        scores="static", budget="fixed", extend=0, draft_deadline_s=30.0, retrieve_deadline_s=30.0
    )


def compare(
    traces: dict[str, list[Trace]], corpus: Retriever | None, nodes: int, extend: int
) -> dict[str, Any]:
    """Each way on each task in turn; what it learned of one it keeps for the next."""
    result: dict[str, Any] = {}
    for way in ways(extend):
        replay = Replay(way, nodes, corpus, Calibration(way.config))
        lengths = {task: round(replay.run(each), 4) for task, each in traces.items()}
        seen = replay.reliability
        result[way.name] = {
            "acceptance_length": lengths,
            "log_loss": round(seen.loss(), 4),
            "reliability": seen.bins(),
        }
    return result


def table(result: dict[str, Any], nodes: int) -> Table:
    """Acceptance length by way and task."""
    first: dict[str, float] = next(iter(result.values()))["acceptance_length"]
    out = Table("way", *first, "log-loss", title=f"acceptance length, {nodes} nodes")
    for name, row in result.items():
        lengths = [f"{length:.2f}" for length in row["acceptance_length"].values()]
        out.add_row(name, *lengths, f"{row['log_loss']:.3f}")
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", choices=["shipped", "trained"], default="shipped")
    parser.add_argument("--prompts", type=int, default=32, help="per task")
    parser.add_argument("--tokens", type=int, default=96, help="new tokens per prompt")
    parser.add_argument("--nodes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--extend", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    params = SamplingParams(
        max_tokens=options.tokens, temperature=options.temperature, seed=1, ignore_eos=False
    )
    load: Callable[..., Any] = shipped if options.models == "shipped" else trained
    traces, corpus = load(params, options.prompts)
    results = {n: compare(traces, corpus, n, options.extend) for n in options.nodes}
    save(f"calibration-{options.models}", {"settings": vars(options), "nodes": results})
    for nodes, result in results.items():
        Console().print(table(result, nodes))


if __name__ == "__main__":
    main()
