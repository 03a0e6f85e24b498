"""The top of the ``rasd`` command, and what stands alone."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from rasd import __version__
from rasd.cli.console import LOCAL, Commands, Key, Url, fail
from rasd.cli.datastore import app as datastore_app
from rasd.config import ApiKey, parse_config
from rasd.errors import ConfigError
from rasd.train.cli import app as train_app

app = typer.Typer(
    cls=Commands,
    help=(
        "RASD serves a large language model faster without changing what it says.\n\n"
        "Start the service with `serve run deploy/config.yaml`, then talk to it with any OpenAI "
        "client, or try `rasd complete`. `rasd datastore` fills and watches its corpora."
    ),
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)
app.add_typer(datastore_app, name="datastore")
app.add_typer(train_app, name="train", help="Make a tokenizer, a target or a drafter.")


@app.command()
def complete(
    prompt: Annotated[str, typer.Argument(help="Text to continue, or a question with --chat.")],
    chat: Annotated[bool, typer.Option(help="Ask through the model's chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    speculation: Annotated[
        str, typer.Option(help="Who may propose: off, draft, prompt, corpus or rasd.")
    ] = "rasd",
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Continue a text, and show what speculation did.

    Example: `rasd complete --chat "What does os.path.join do?"`
    """
    body: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "speculation": speculation,
    }
    if chat:
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    route = "chat/completions" if chat else "completions"
    answer = _call(url, key, route, body)
    choice = answer["choices"][0]
    console = Console()
    console.print(choice["message"]["content"] if chat else choice["text"], markup=False)
    console.print(_statistics(answer["rasd"]))


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A Serve config, such as deploy/config.yaml.")],
) -> None:
    """Check a Serve config file and print every setting in effect."""
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text())
        for application in loaded["applications"]:
            settings = parse_config(application.get("args") or {})
            typer.echo(f"# {application['name']}")
            typer.echo(yaml.safe_dump(settings.model_dump(), sort_keys=False))
    except (OSError, yaml.YAMLError, ConfigError) as error:
        fail(f"{path}: {error}")
    except (KeyError, TypeError) as error:
        fail(f"{path} is no Serve config: it lacks a list `applications` of named ones: {error!r}")


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    corpora: Annotated[
        list[str] | None, typer.Option("--corpus", help="It reads only this; may be repeated.")
    ] = None,
    manage: Annotated[bool, typer.Option(help="It may also change what it reads.")] = False,
) -> None:
    """Make an API key: give the key to the client, put the entry into the config."""
    made = secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": ApiKey.digest(made)}
    entry |= ({"corpora": corpora} if corpora else {}) | ({"manage": True} if manage else {})
    try:
        ApiKey(**entry)
    except ValidationError as error:
        fault = error.errors()[0]
        fail(f"{fault['loc'][0]}: {fault['msg']}; got {fault['input']!r}")
    typer.echo(f"key:    {made}")
    typer.echo(f"config: {json.dumps(entry)}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _call(url: str, key: str, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to the service; ends the program on an error."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=600) as client:
            models = client.get("/v1/models").raise_for_status().json()
            answer = client.post(f"/v1/{route}", json={"model": models["data"][0]["id"], **body})
    except httpx.HTTPError as error:
        fail(f"{url}: {error}")
    if answer.status_code != 200:
        fail(f"{answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def _statistics(found: dict[str, Any]) -> Table:
    """What speculation did, as `rasd.api.results.summary` counts it."""
    gained = f"{found['acceptance_length']:.2f} tokens per step"
    table = Table(title=f"{found['tokens']} tokens in {found['steps']} steps: {gained}")
    table.add_column("source")
    for column in ("drafted", "accepted"):
        table.add_column(column, justify="right")
    for source, drafted in found["drafted"].items():
        table.add_row(source, str(drafted), str(found["accepted"][source]))
    if found.get("partial_steps"):
        table.caption = f"{found['partial_steps']} steps without some partition of the corpora"
    return table


def main() -> None:
    """Entry point."""
    app()
