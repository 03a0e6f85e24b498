"""An override lasts until the next deployment, and no restart ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import scaling
from actors.scaling import OverrideFile, Scaling
from rasd.datastore import Scale
from rasd.errors import ConfigError, InvalidRequest, StorageError, Unavailable


class Serve:
    """Says when it deployed."""

    def __init__(self) -> None:
        self.at = 1000.5
        self.silent = False
        self.asked = 0

    def deployed_at(self) -> float:
        self.asked += 1
        if self.silent:
            raise Unavailable("no controller")
        return self.at


class Service:
    """A storage root and a Serve; controllers come and go."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.serve = Serve()
        self.shown: list[Scale] = []

    def controller(self, built: str = "b", application: str = "rasd") -> Scaling:
        file = OverrideFile(self.root, application)
        return Scaling(file, built, self.serve.deployed_at, self.shown.append)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path / "root")


async def test_the_configuration_counts_without_an_override(service: Service) -> None:
    control = service.controller()
    await control.configure({})
    await control.configure({"shards": 3, "replicas": 2})
    await control.configure({"shards": 3, "replicas": 2})
    assert service.shown == [Scale(1, 1), Scale(3, 2)]
    assert control.current == control.configured == Scale(3, 2) and control.override is None
    assert not service.root.exists()


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"shards": 0}, "shards"),
        ({"shards": 257}, "less than or equal to 256"),
        ({"replicas": 17}, "less than or equal to 16"),
        ({"shards": "2"}, "valid integer"),
        ({"shard": 2}, "shard\n"),
    ],
)
async def test_wrong_configurations_are_refused_by_name(
    service: Service, user_config: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match="user_config of Datastore") as refused:
        await service.controller().configure(user_config)
    assert message in str(refused.value)


@pytest.mark.parametrize("scale", [Scale(0, 1), Scale(257, 1), Scale(1, 0), Scale(1, 17)])
async def test_scales_out_of_range_are_refused(service: Service, scale: Scale) -> None:
    control = service.controller()
    await control.configure({"shards": 2})
    with pytest.raises(InvalidRequest, match="must be 1 to"):
        await control.set(scale)
    assert control.current == Scale(2, 1)


async def test_an_override_outlives_its_controller(service: Service) -> None:
    control = service.controller()
    await control.configure({"shards": 2})
    await control.set(Scale(4, 2))
    assert (control.current, control.configured) == (Scale(4, 2), Scale(2, 1))
    again = service.controller()
    await again.configure({"shards": 2})
    assert (again.current, again.configured) == (Scale(4, 2), Scale(2, 1))
    assert service.shown == [Scale(2, 1), Scale(4, 2), Scale(4, 2)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_deployment_ends_it_be_it_the_same_or_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "LOOK_S", 0.02)
    control = service.controller()
    await control.configure({"shards": 2})
    watching = asyncio.create_task(control.watch())
    await control.set(Scale(4, 2))
    service.serve.at += 1  # the same configuration: Serve tells us nothing
    await until(lambda: control.override is None)
    assert control.current == Scale(2, 1)
    await control.set(Scale(4, 2))
    service.serve.at += 1
    await control.configure({"shards": 3})
    assert (control.current, control.override) == (Scale(3, 1), None)
    watching.cancel()
    again = service.controller()
    await again.configure({"shards": 3})
    assert again.current == Scale(3, 1)
    assert service.shown == [Scale(*each) for each in [(2, 1), (4, 2)] * 2 + [(3, 1)] * 2]


async def test_another_build_or_application_is_not_meant(service: Service) -> None:
    control = service.controller()
    await control.configure({"shards": 2})
    await control.set(Scale(4, 2))
    for other in (service.controller(built="c"), service.controller(application="a/b")):
        await other.configure({"shards": 2})
        assert other.override is None


async def test_while_serve_is_silent_nothing_changes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "LOOK_S", 0.02)
    control = service.controller()
    await control.configure({"shards": 2})
    await control.set(Scale(4, 2))
    service.serve.silent = True
    with pytest.raises(Unavailable):
        await control.set(Scale(1, 1))
    assert control.current == Scale(4, 2)
    again = service.controller()
    await again.configure({"shards": 2})
    assert again.current == Scale(2, 1)  # it cannot know yet
    watching = asyncio.create_task(again.watch())
    service.serve.silent = False
    await until(lambda: again.current == Scale(4, 2))
    service.serve.silent = True
    asked = service.serve.asked
    await until(lambda: service.serve.asked > asked + 3)
    assert again.current == Scale(4, 2)
    watching.cancel()


async def test_what_cannot_be_kept_is_refused(service: Service) -> None:
    service.root.write_text("a file, where the root should be")
    control = service.controller()
    await control.configure({"shards": 2})
    with pytest.raises(StorageError):
        await control.set(Scale(4, 2))
    assert control.current == Scale(2, 1)


@pytest.mark.parametrize("kept", ["", "{", "{}", '{"shards": 0, "replicas": 1, "deployed": {}}'])
async def test_a_damaged_file_is_no_override(service: Service, kept: str) -> None:
    control = service.controller()
    await control.configure({"shards": 2})
    await control.set(Scale(4, 2))
    (file,) = service.root.iterdir()
    assert file.name.startswith(".")
    file.write_text(kept)
    await control.configure({"shards": 2})
    assert control.current == Scale(2, 1)
