"""`rasd train`: its help, and that asking for it does not load torch."""

import subprocess
import sys

from typer.testing import CliRunner

from rasd.train.cli import app


def test_help_names_the_steps_and_limits() -> None:
    runner = CliRunner()
    for command in ("tokenizer", "target", "eagle"):
        assert command in runner.invoke(app, ["--help"]).output
        assert runner.invoke(app, [command, "--help"]).exit_code == 0


def test_importing_the_commands_does_not_import_torch() -> None:
    code = "import sys, rasd.train.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
