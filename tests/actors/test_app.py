"""The application from its configuration: what is refused at start, and what asks for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from actors import proxy
from actors.app import build
from actors.replica import bundles, together
from actors.scaling import ScaleSetting
from rasd.config import (
    ApiKey,
    AppConfig,
    DrafterConfig,
    EngineConfig,
    RouterConfig,
    StoreConfig,
    TargetConfig,
    parse_config,
)
from rasd.errors import ConfigError

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
CONFIGS = sorted(DEPLOY.glob("config*.yaml"))


def args_of(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text())
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    assert (application["name"], application["route_prefix"]) == ("rasd", "/")
    for deployment in application["deployments"]:
        if deployment["name"] == "Datastore":
            ScaleSetting.model_validate(deployment["user_config"])
    args: dict[str, Any] = application["args"]
    return args


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    parse_config(args_of(path))


def test_the_default_configuration_shows_every_setting_with_its_default() -> None:
    args = args_of(DEPLOY / "config.yaml")
    assert parse_config(args) == AppConfig()
    for name, section in AppConfig().model_dump().items():
        left_out = {"model"} if name in ("target", "drafter") else set()
        assert args[name].keys() == section.keys() - left_out
    assert args["datastore"]["store"].keys() == StoreConfig.model_fields.keys()


def test_the_default_configuration_listens_to_this_machine_only() -> None:
    config = yaml.safe_load((DEPLOY / "config.yaml").read_text())
    assert config["http_options"]["host"] == "127.0.0.1"


def test_wrong_keys_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_sequence: Extra inputs"):
        build({"engine": {"max_sequence": 3}})
    with pytest.raises(ConfigError, match=r"target.threads.*got 0"):
        build({"target": {"threads": 0}})


def test_no_datastore_is_a_setting() -> None:
    build({"datastore": None})


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "example.org", "::"])
async def test_without_keys_only_loopback_is_served(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(proxy, "bound_host", lambda: host)
    with pytest.raises(ConfigError, match=r"router.api_keys.*got host"):
        await proxy.check_proxy(RouterConfig())
    key = ApiKey(name="alice", sha256=ApiKey.digest("secret"))
    await proxy.check_proxy(RouterConfig(api_keys=[key]))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_loopback_needs_no_keys(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(proxy, "bound_host", lambda: host)
    await proxy.check_proxy(RouterConfig())


def test_one_rank_on_a_cpu_lives_with_the_engine() -> None:
    apart, ranks = EngineConfig(placement="apart"), TargetConfig(tensor_parallel=2)
    assert together(AppConfig()) and not together(AppConfig(engine=apart))
    assert not together(AppConfig(target=ranks))
    assert not together(AppConfig(target=TargetConfig(device="cuda")))
    with pytest.raises(ConfigError, match=r"together needs tensor_parallel 1; got 2"):
        together(AppConfig(target=ranks, engine=EngineConfig(placement="together")))


def test_a_replica_asks_for_what_its_devices_need() -> None:
    assert bundles(AppConfig()) == [{"CPU": 0.2}]
    assert bundles(AppConfig(engine=EngineConfig(placement="apart"))) == [{"CPU": 0.2}] * 2
    alone = AppConfig(target=TargetConfig(device="cuda"), engine=EngineConfig(placement="together"))
    assert bundles(alone) == [{"CPU": 0.2, "GPU": 1.0}]
    config = AppConfig(
        target=TargetConfig(device="cuda", tensor_parallel=4), drafter=DrafterConfig(device="cuda")
    )
    assert [bundle.get("GPU", 0) for bundle in bundles(config)] == [0, 1, 1, 1, 1]
