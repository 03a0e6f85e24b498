"""Requests and replies between threads and processes, and what happens when a peer fails."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import pytest
import zmq

from actors import rpc
from actors.beside import MAX_WAITING
from actors.rpc import Client, Server, take_in
from actors.wire import Done, Reset
from rasd.errors import KVExhausted, StageTimeout, StageUnavailable, WireError
from rasd.stages import DraftReply, DraftRequest, Features
from tests.actors.threads import HOST, SECRET, served


def echo(request: DraftRequest) -> DraftReply:
    return DraftReply(request.step, [None] * len(request.queries))


@contextmanager
def serving(handler: Callable[[DraftRequest], object | None] = echo) -> Iterator[Server]:
    server = Server(HOST, SECRET, {DraftRequest: handler})
    with served(server):
        yield server


@contextmanager
def connected(server: Server, secret: bytes = SECRET) -> Iterator[Client]:
    client = Client(server.address, secret)
    try:
        yield client
    finally:
        client.close()


def ask(client: Client, step: int) -> rpc.Call[DraftReply]:
    return client.call(DraftRequest(step, [], []), DraftReply)


def test_several_requests_in_flight_are_answered_each() -> None:
    with serving() as server, connected(server) as client:
        calls = [ask(client, step) for step in range(20)]
        order = random.Random(7).sample(range(20), 20)
        assert [calls[i].wait(5).step for i in order] == order


def test_a_late_answer_is_kept_for_who_waits_again_and_dropped_otherwise() -> None:
    gate = threading.Event()

    def held(request: DraftRequest) -> DraftReply:
        assert gate.wait(10)
        return echo(request)

    with serving(held) as server, connected(server) as client:
        kept, dropped = ask(client, 1), ask(client, 2)
        for call in (kept, dropped):
            with pytest.raises(StageTimeout):
                call.wait(0.02)
        del call, dropped
        gate.set()
        assert kept.wait(5).step == 1
        assert ask(client, 3).wait(5).step == 3
        assert client.late == 1


def test_a_handlers_error_is_replied_and_the_server_lives_on() -> None:
    faults: list[Exception] = [KVExhausted("full"), ZeroDivisionError("x")]

    def faulty(request: DraftRequest) -> DraftReply:
        if faults:
            raise faults.pop(0)
        return echo(request)

    with serving(faulty) as server, connected(server) as client:
        with pytest.raises(KVExhausted, match="full"):
            ask(client, 1).wait(5)
        with pytest.raises(StageUnavailable, match="ZeroDivisionError"):
            ask(client, 2).wait(5)
        assert ask(client, 3).wait(5).step == 3


def test_a_fatal_error_is_replied_and_ends_the_server() -> None:
    def faulty(request: DraftRequest) -> DraftReply:
        raise ZeroDivisionError

    server = Server(HOST, SECRET, {DraftRequest: faulty}, fatal=lambda error: True)
    raised: list[Exception] = []

    def serve() -> None:
        try:
            server.serve()
        except ZeroDivisionError as error:
            raised.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with connected(server) as client:
        with pytest.raises(StageUnavailable):
            ask(client, 1).wait(5)
        thread.join(10)
        assert len(raised) == 1


def test_what_takes_long_holds_up_nothing_else() -> None:
    gate = threading.Event()

    def take_long(request: DraftRequest) -> DraftReply:
        gate.wait(10)
        if request.step == 3:
            raise KVExhausted("no room")
        return echo(request)

    server = Server(HOST, SECRET, {Reset: lambda _: Done()}, slow={DraftRequest: take_long})
    with served(server), connected(server) as client:
        slow = [ask(client, step) for step in (1, 2, 3)]
        for _ in range(5):
            client.call(Reset(), Done).wait(5)
        assert not any(call.settled for call in slow)
        gate.set()
        assert [call.wait(5).step for call in slow[:2]] == [1, 2]
        with pytest.raises(KVExhausted, match="no room"):
            slow[2].wait(5)


def test_only_so_many_wait_for_what_takes_long() -> None:
    gate = threading.Event()
    server = Server(HOST, SECRET, {}, slow={DraftRequest: lambda request: gate.wait(10) and None})
    with served(server), connected(server) as client:
        calls = [ask(client, step) for step in range(MAX_WAITING + 2)]
        with pytest.raises(StageUnavailable, match="others wait"):
            calls[-1].wait(5)
        server.stop()  # ends although they wait
        gate.set()


def test_an_unexpected_message_is_refused() -> None:
    with serving() as server, connected(server) as client:
        with pytest.raises(WireError, match="not expected"):
            client.call(Reset(), DraftReply).wait(5)
        assert server.refused == 1


def test_an_unexpected_answer_is_as_good_as_none() -> None:
    with serving(lambda request: request) as server, connected(server) as client:
        with pytest.raises(StageUnavailable, match="answered DraftRequest"):
            ask(client, 1).wait(5)


def test_without_the_secret_nothing_is_answered() -> None:
    with serving() as server, connected(server) as good, connected(server, b"t" * 32) as bad:
        call = ask(bad, 1)
        assert ask(good, 2).wait(5).step == 2
        with pytest.raises(StageTimeout):
            call.wait(0.05)
        assert server.refused == 1


def test_a_client_does_not_believe_a_peer_without_the_secret() -> None:
    socket = rpc.open_socket(zmq.ROUTER)
    client = Client(rpc.bind(socket, HOST), SECRET)
    call = ask(client, 1)
    peer, _, number, _ = socket.recv_multipart()
    socket.send_multipart([peer, b"t" * 32, number, bytes(rpc.encode(DraftReply(1, [])))])
    with pytest.raises(StageTimeout):
        call.wait(0.1)
    client.close()
    socket.close()


def test_random_frames_do_not_hurt_a_server(seed: int) -> None:
    noise = random.Random(seed)
    with serving() as server, connected(server) as client:
        socket = rpc.open_socket(zmq.DEALER)
        socket.connect(server.address)
        for _ in range(300):
            frames = [
                noise.randbytes(noise.choice([0, 1, 8, 32])) for _ in range(noise.randrange(1, 6))
            ]
            if noise.random() < 0.5:
                frames[0] = SECRET
            socket.send_multipart(frames)
        good = ask(client, 1)
        assert good.wait(10).step == 1
        socket.close()


def test_many_clients_are_awaited_together() -> None:
    with serving() as a, serving() as b, connected(a) as first, connected(b) as second:
        calls = [ask(first, 1), ask(second, 2)]
        deadline = time.monotonic() + 5
        while not all(call.settled for call in calls):
            take_in([first, second], deadline - time.monotonic())
        assert [call.wait(0).step for call in calls] == [1, 2]


def test_a_closed_client_refuses() -> None:
    with serving() as server, connected(server) as client:
        call = ask(client, 1)
        client.close()
        with pytest.raises(StageUnavailable, match="closed"):
            call.wait(1)
        with pytest.raises(StageUnavailable, match="closed"):
            ask(client, 2)


def _serve_process(pipe: Connection) -> None:
    def answer(request: DraftRequest) -> DraftReply | None:
        return echo(request) if request.step >= 0 else None

    server = Server(HOST, SECRET, {DraftRequest: answer})
    pipe.send(server.address)
    server.serve()


@pytest.fixture
def process() -> Iterator[tuple[str, int]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve_process, args=(theirs,), daemon=True)
    child.start()
    assert ours.poll(60) and child.pid is not None
    yield ours.recv(), child.pid
    child.kill()
    child.join(10)


def test_a_killed_peer_is_noticed_at_once(process: tuple[str, int]) -> None:
    address, pid = process
    client = Client(address, SECRET)
    answered, waiting = ask(client, 1), ask(client, -1)
    assert answered.wait(10).step == 1
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(StageUnavailable, match="broke"):
        waiting.wait(10)
    assert time.monotonic() - started < 1
    with pytest.raises(StageUnavailable, match="broke"):
        ask(client, 2)
    client.close()


def test_an_answer_sent_before_the_end_still_counts(process: tuple[str, int]) -> None:
    address, pid = process
    client = Client(address, SECRET)
    first = ask(client, 1)
    poller = zmq.Poller()
    poller.register(client.sockets[0], zmq.POLLIN)
    assert poller.poll(10_000)  # it has arrived, nobody has read it
    os.kill(pid, signal.SIGKILL)
    assert client.sockets[1].poll(10_000)
    assert first.wait(0).step == 1
    client.close()


def test_a_frozen_peer_is_given_up(
    process: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "SILENCE_S", 0.5)
    monkeypatch.setattr(rpc, "HEARTBEAT_S", 0.1)
    address, pid = process
    client = Client(address, SECRET)
    assert ask(client, 1).wait(10).step == 1
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StageUnavailable, match="broke"):
        ask(client, 2).wait(10)
    client.close()


def test_nobody_at_the_address_is_noticed() -> None:
    socket = rpc.open_socket(zmq.ROUTER)
    address = rpc.bind(socket, HOST)
    socket.close()
    client = Client(address, SECRET)
    with pytest.raises(StageUnavailable):
        ask(client, 1).wait(10)
    client.close()


def test_large_features_fit() -> None:
    rows = np.zeros((256, 8192), np.uint16)
    assert rpc.decode(rpc.encode(Features(1, 0, rows))).rows.shape == rows.shape
