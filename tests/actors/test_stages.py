"""Remote stages against small stages in threads: what goes in comes out, and what fails shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest

from actors.draft import DraftService, RemoteDrafter
from actors.features import FeatureSender
from actors.rpc import Server
from actors.target import RemoteTarget, TargetRef, TargetService
from rasd.errors import KVExhausted, StageTimeout, StageUnavailable
from rasd.params import SamplingParams
from rasd.stages import (
    Admission,
    DraftQuery,
    DraftReply,
    DraftRequest,
    Features,
    Ready,
    TargetInfo,
    Verified,
    VerifyReply,
    VerifyRequest,
    Work,
)
from tests.actors.threads import HOST, SECRET, served

INFO = TargetInfo(512, 128, 1024, 16, 8)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


class CountingTarget:
    """Answers every work with its number of tokens; ``before`` may raise or wait."""

    def __init__(self, before: Callable[[VerifyRequest], None] = lambda request: None) -> None:
        self.info = INFO
        self.requests: list[VerifyRequest] = []
        self._before = before

    def verify(self, request: VerifyRequest) -> Ready[VerifyReply]:
        self.requests.append(request)
        self._before(request)
        results = [Verified(w.sequence, ints(), ints(len(w.tokens))) for w in request.work]
        return Ready(VerifyReply(request.step, results, 0.0, 0.0))

    def close(self) -> None: ...


def target_of(*services: TargetService) -> RemoteTarget:
    addresses = tuple(service.server.address for service in services)
    return RemoteTarget(TargetRef(addresses, INFO), SECRET, timeout_s=5)


def step(number: int, *sequences: int, admit: bool = False) -> VerifyRequest:
    params = SamplingParams(seed=1)
    admissions = [Admission(s, ints(1, 2), ints(), params) for s in sequences] if admit else []
    work = [Work(s, ints(1, 2, 3), ints(-1, 0, 1), 1, True) for s in sequences]
    return VerifyRequest(number, [], admissions, work)


def test_a_step_reaches_every_rank_and_the_first_answers() -> None:
    targets = [CountingTarget(), CountingTarget()]
    services = [TargetService(t, HOST, SECRET, rank=i) for i, t in enumerate(targets)]
    with served(*(service.server for service in services)):
        target = target_of(*services)
        assert target.info == INFO
        for number in range(1, 4):
            reply = target.verify(step(number, 7, admit=number == 1)).wait(5)
            assert reply.step == number and reply.results[0].tokens.tolist() == [3]
        deadline = time.monotonic() + 5
        while [len(t.requests) for t in targets] != [3, 3]:
            assert time.monotonic() < deadline
        target.close()


def test_a_new_engine_makes_a_target_forget_the_old_ones_sequences() -> None:
    fake = CountingTarget()
    service = TargetService(fake, HOST, SECRET)
    with served(service.server):
        old = target_of(service)
        old.verify(step(1, 3, 5, admit=True)).wait(5)
        old.verify(VerifyRequest(2, [3], [], [])).wait(5)
        old.close()
        new = target_of(service)
        assert fake.requests[-1].release == [5]
        new.close()


def test_an_error_of_ours_is_told_and_the_target_lives_on() -> None:
    faults: list[Exception] = [KVExhausted("no page")]

    def before(request: VerifyRequest) -> None:
        if request.work and faults:
            raise faults.pop()

    service = TargetService(CountingTarget(before), HOST, SECRET)
    with served(service.server):
        target = target_of(service)
        with pytest.raises(KVExhausted, match="no page"):
            target.verify(step(1, 7)).wait(5)
        assert target.verify(step(2, 7)).wait(5).step == 2
        target.close()


def test_any_other_error_of_any_rank_ends_the_rank_and_the_wait() -> None:
    reached = threading.Event()

    def hang(request: VerifyRequest) -> None:
        if request.work:
            reached.wait(5)

    def fail(request: VerifyRequest) -> None:
        if request.work:
            raise ZeroDivisionError

    first = TargetService(CountingTarget(hang), HOST, SECRET)
    second = TargetService(CountingTarget(fail), HOST, SECRET, rank=1)
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            second.server.serve()
        except ZeroDivisionError as error:
            failed.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with served(first.server):
        target = target_of(first, second)
        with pytest.raises(StageUnavailable, match="ZeroDivisionError"):
            target.verify(step(1, 7)).wait(5)
        reached.set()
        thread.join(5)
        assert len(failed) == 1
        target.close()


def test_a_slow_target_is_waited_for_again() -> None:
    gate = threading.Event()

    def hold(request: VerifyRequest) -> None:
        if request.work:
            assert gate.wait(5)

    service = TargetService(CountingTarget(hold), HOST, SECRET)
    with served(service.server):
        target = target_of(service)
        pending = target.verify(step(1, 7))
        with pytest.raises(StageTimeout):
            pending.wait(0.02)
        gate.set()
        assert pending.wait(5).step == 1
        target.close()


def test_a_target_that_is_not_there_is_refused_in_time() -> None:
    server = Server(HOST, SECRET, {})
    with served(server):
        pass
    with pytest.raises(StageUnavailable):
        RemoteTarget(TargetRef((server.address,), INFO), SECRET, timeout_s=5)


class WaitingDrafter:
    """Has an answer once the features of the newest token but one are here."""

    def __init__(self) -> None:
        self.features: dict[int, int] = {}
        self.released: list[int] = []
        self.ready_at_answer: list[bool] = []

    def put(self, features: Features) -> None:
        self.features[features.sequence] = features.start + len(features.rows)

    def ready(self, query: DraftQuery) -> bool:
        return self.features.get(query.sequence, 0) >= query.start + len(query.tokens) - 1

    def propose(self, request: DraftRequest) -> Ready[DraftReply]:
        self.released.extend(request.release)
        self.ready_at_answer.extend(map(self.ready, request.queries))
        return Ready(DraftReply(request.step, [None] * len(request.queries)))

    def check_integrity(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def stack() -> ExitStack:
    with ExitStack() as stack:
        yield stack


def drafting(
    stack: ExitStack, patience_s: float
) -> tuple[WaitingDrafter, DraftService, RemoteDrafter, FeatureSender]:
    fake = WaitingDrafter()
    service = DraftService(fake, HOST, SECRET, patience_s=patience_s)  # type: ignore[arg-type]
    stack.enter_context(served(service.server))
    drafter = RemoteDrafter(service.ref, SECRET)
    stack.callback(drafter.close)
    sender = FeatureSender(SECRET)
    stack.callback(sender.close)
    return fake, service, drafter, sender


def rows(sequence: int, start: int, count: int) -> Features:
    return Features(sequence, start, np.zeros((count, 8), np.float32))


def query(sequence: int, tokens: int) -> DraftRequest:
    return DraftRequest(1, [], [DraftQuery(sequence, 0, ints(*range(tokens)), 4)])


def test_a_drafter_waits_for_features_on_their_way(stack: ExitStack) -> None:
    fake, service, drafter, sender = drafting(stack, patience_s=5)
    pending = drafter.propose(query(3, tokens=5))
    with pytest.raises(StageTimeout):
        pending.wait(0.05)
    sender.point_to(service.ref.features)
    sender.put(rows(3, 0, 2))
    sender.put(rows(3, 2, 2))
    assert pending.wait(5).drafts == [None]
    assert fake.ready_at_answer == [True] and sender.dropped == 0


def test_a_drafter_answers_without_features_in_the_end(stack: ExitStack) -> None:
    fake, _, drafter, _ = drafting(stack, patience_s=0.05)
    started = time.monotonic()
    assert drafter.propose(query(3, tokens=5)).wait(5).drafts == [None]
    assert time.monotonic() - started >= 0.05 and fake.ready_at_answer == [False]


def test_features_nobody_takes_are_dropped_without_waiting(stack: ExitStack) -> None:
    fake, service, drafter, sender = drafting(stack, patience_s=5)
    sender.put(rows(3, 0, 4))
    assert sender.dropped == 1
    gone = Server(HOST, SECRET, {})
    with served(gone):
        pass
    sender.point_to(gone.address)
    started = time.monotonic()
    for _ in range(1000):
        sender.put(rows(3, 0, 4))
    assert sender.dropped > 800 and time.monotonic() - started < 2
    sender.point_to(service.ref.features)  # a new drafter
    sender.put(rows(3, 0, 4))
    drafter.propose(query(3, tokens=5)).wait(5)
    assert fake.ready_at_answer == [True]


def test_many_features_go_in_several_messages(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.features._PART_BYTES", 3 * rows(3, 0, 1).rows.nbytes)
    fake, service, drafter, sender = drafting(stack, patience_s=5)
    sender.point_to(service.ref.features)
    sender.put(rows(3, 0, 7))
    drafter.propose(query(3, tokens=8)).wait(5)
    assert fake.ready_at_answer == [True] and sender.dropped == 0


def test_a_new_engine_makes_a_drafter_forget(stack: ExitStack) -> None:
    fake, service, drafter, sender = drafting(stack, patience_s=5)
    sender.point_to(service.ref.features)
    sender.put(rows(3, 0, 4))
    drafter.propose(query(3, tokens=5)).wait(5)
    new = RemoteDrafter(service.ref, SECRET)
    stack.callback(new.close)
    new.propose(DraftRequest(1, [], [])).wait(5)
    assert fake.released == [3]


def test_features_without_the_secret_are_refused(stack: ExitStack) -> None:
    fake, service, drafter, _ = drafting(stack, patience_s=0.2)
    stranger = FeatureSender(b"t" * 32)
    stack.callback(stranger.close)
    stranger.point_to(service.ref.features)
    stranger.put(rows(3, 0, 4))
    drafter.propose(query(3, tokens=5)).wait(5)
    assert fake.ready_at_answer == [False] and service._features.refused == 1
