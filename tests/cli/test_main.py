"""Commands that stand alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rasd import __version__
from rasd.cli import app
from rasd.config import RouterConfig, parse_config
from tests.cli.conftest import Place

RUNNER = CliRunner(env={"COLUMNS": "160"})


@pytest.mark.parametrize(
    ("arguments", "corpora", "manage"),
    [
        ([], None, False),
        (["--manage"], None, True),
        (["--corpus", "docs", "--corpus", "laws"], ["docs", "laws"], False),
    ],
)
def test_a_key_fits_into_the_config(
    arguments: list[str], corpora: list[str] | None, manage: bool
) -> None:
    shown = RUNNER.invoke(app, ["key", "alice", *arguments])
    assert shown.exit_code == 0
    key, config = (line.partition(":")[2].strip() for line in shown.stdout.splitlines())
    (entry,) = RouterConfig(api_keys=[yaml.safe_load(config)]).api_keys
    assert (entry.name, entry.corpora, entry.manage) == ("alice", corpora, manage)
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()


def test_a_key_for_what_cannot_be_is_refused() -> None:
    for arguments in (["a b"], ["alice", "--corpus", "../x"]):
        refused = RUNNER.invoke(app, ["key", *arguments])
        assert (refused.exit_code, "pattern" in refused.stderr) == (1, True)
        assert not refused.stdout


def test_a_config_is_checked(tmp_path: Path) -> None:
    shipped = Path(__file__).parent.parent.parent / "deploy" / "config.yaml"
    shown = RUNNER.invoke(app, ["check", str(shipped)])
    assert shown.exit_code == 0
    parse_config(yaml.safe_load(shown.stdout))
    broken = tmp_path / "config.yaml"
    for content in ("applications: [{name: x, args: {nodes: 1}}]", "- 1", "{", "applications: 5"):
        broken.write_text(content)
        assert RUNNER.invoke(app, ["check", str(broken)]).exit_code == 1
    assert RUNNER.invoke(app, ["check", str(tmp_path / "none")]).exit_code == 1


def test_a_completion_says_what_speculation_did(place: Place) -> None:
    environment = {"RASD_URL": place.url}
    for arguments, shown in ([], True), (["--speculation", "draft"], False):
        done = RUNNER.invoke(app, ["complete", "hi", *arguments], env=environment)
        assert done.exit_code == 0 and "Hello, world" in done.stdout
        assert "tokens in 5 steps" in done.stdout
        assert ("5 steps without some partition" in done.stdout) is shown


def test_the_version_is_printed() -> None:
    assert RUNNER.invoke(app, ["version"]).stdout == f"{__version__}\n"
