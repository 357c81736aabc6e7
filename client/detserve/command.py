"""The root command ``detserve``: a table of its commands, whose modules are imported when they are used."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, NamedTuple

from typer import Context, Exit, Option, Typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from detserve_core.errors import DetserveError, MissingExtra


class _Command(NamedTuple):
    """``module`` holds the command as ``app``; ``group`` is its panel in ``detserve --help``."""

    module: str
    group: str
    help: str
    example: str


_BUILD, _DETECT, _MEASURE, _PRODUCTION = "Build", "Serve and detect", "Measure", "Production"

COMMANDS = {
    "demo": _Command(
        "detserve.demo",
        _DETECT,
        "Show a detector at work: build, serve, detect, draw.",
        "detserve demo photos/ --model yolox_nano",
    ),
    "inspect": _Command(
        "detserve_builder.commands.inspect",
        _BUILD,
        "Show what is read from a checkpoint: family, inputs, card.",
        "detserve inspect yolo11n.onnx --images photos",
    ),
    "build": _Command(
        "detserve_builder.commands.build",
        _BUILD,
        "Build a checkpoint into a model repository.",
        "detserve build yolo11n.onnx --name people --repository model_repository",
    ),
    "card": _Command(
        "detserve_builder.commands.card",
        _BUILD,
        "Describe the fields of a detector's card.",
        "detserve card --schema",
    ),
    "engine": _Command(
        "detserve_builder.commands.engine",
        _BUILD,
        "Build TensorRT plans on the GPU that will serve them.",
        "detserve engine --repository model_repository",
    ),
    "zoo": _Command(
        "detserve_builder.commands.zoo",
        _BUILD,
        "List and get detectors of everyday things.",
        "detserve zoo get yolox_nano",
    ),
    "serve": _Command(
        "detserve_server.commands.serve",
        _DETECT,
        "Serve a model repository on this machine.",
        "detserve serve --repository model_repository",
    ),
    "detect": _Command(
        "detserve_client.commands.detect",
        _DETECT,
        "Detect objects in pictures or in a video.",
        "detserve detect street.jpg --save drawn",
    ),
    "rest": _Command(
        "detserve_rest.commands.rest",
        _DETECT,
        "Answer plain HTTP in front of a server: curl, browsers, cameras.",
        "detserve rest --url localhost:8000 --port 8080",
    ),
    "image": _Command(
        "detserve_client.commands.image",
        _DETECT,
        "Make a picture grey or smaller, or draw detections into it.",
        "detserve image resize street.jpg small.jpg --scale 0.5",
    ),
    "doctor": _Command(
        "detserve_server.commands.doctor",
        _DETECT,
        "Check what would stop a repository from being served.",
        "detserve doctor --repository model_repository",
    ),
    "perf": _Command(
        "detserve_perf.commands",
        _MEASURE,
        "Measure a running server: speed, accuracy, capacity.",
        "detserve perf sweep --url localhost:8001 --model people --pictures photos --output out",
    ),
    "canary": _Command(
        "detserve_perf.commands.canary",
        _MEASURE,
        "Compare a new detector with the old one on your pictures.",
        "detserve canary --old localhost:8001 --new localhost:9001 --model people --pictures photos",
    ),
    "gateway": _Command(
        "detserve_server.commands.gateway",
        _PRODUCTION,
        "Run the gateway: nginx between the network and Triton.",
        "detserve gateway render --output gateway --triton triton",
    ),
    "keys": _Command(
        "detserve_server.commands.keys",
        _PRODUCTION,
        "Create, list and revoke API keys.",
        "detserve keys create --client shop",
    ),
    "certs": _Command(
        "detserve_server.commands.certs",
        _PRODUCTION,
        "Make certificates for the gateway and its clients.",
        "detserve certs init --tls tls",
    ),
    "audit": _Command(
        "detserve_server.commands.audit",
        _PRODUCTION,
        "Collect, verify and sum up who asked what.",
        "detserve audit usage audit --output usage.csv",
    ),
    "sign": _Command(
        "detserve_server.commands.sign",
        _PRODUCTION,
        "Sign every file of a model repository.",
        "detserve sign --repository model_repository --key signing.pem --create-key",
    ),
    "verify": _Command(
        "detserve_server.commands.verify",
        _PRODUCTION,
        "Check that a model repository is what was signed.",
        "detserve verify --repository model_repository --key signing.pub",
    ),
    "rollout": _Command(
        "detserve_server.commands.rollout",
        _PRODUCTION,
        "Give a new server a growing share of the traffic.",
        "detserve rollout --gateway gateway --to-grpc triton-2:8001 --to-http triton-2:8000",
    ),
}


class _Commands(TyperGroup):
    """Lists the table; the command itself is imported when it is called or completed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, command in COMMANDS.items():
            stands_in = TyperCommand(name, help=command.help, rich_help_panel=command.group)
            self.commands.setdefault(name, stands_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = get_command(_module_of(COMMANDS[name]).app)
            command.name = name
            command.epilog = f"Example: {COMMANDS[name].example}"
        return name, command, rest


def _module_of(command: _Command) -> Any:
    try:
        return import_module(command.module)
    except ModuleNotFoundError as error:
        package = command.module.partition(".")[0].removeprefix("detserve_")
        if package == "client" or str(error.name).startswith("detserve"):
            raise
        raise MissingExtra(str(error.name), package) from None


app = Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: detserve detect street.jpg --save drawn",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"detserve {version('detserve')}")
        raise Exit


@app.callback()
def _root(
    ctx: Context,
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a detector checkpoint to a measured, guarded Triton deployment."""
    ctx.obj = _served_here


@contextmanager
def _served_here(model: str | None) -> Iterator[tuple[str, str]]:
    """For ``detserve detect`` where no server runs: serve what was built, yield the address and the name."""
    from detserve.serving import detector_here, serve

    detector = detector_here(model)
    print(
        f"no server runs on this machine: serving {detector.name} of {detector.repository} for this call",
        file=sys.stderr,
    )
    with serve(detector) as client:
        yield str(client.endpoint), detector.name


def main() -> None:
    """Run the command line: a user's mistake prints one sentence and exits 1, a bug keeps its traceback."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log would stand beside our sentence
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show is written out
    try:
        app()
        sys.stdout.flush()
    except DetserveError as error:
        from detserve_core.text import printable

        print(f"detserve: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print(f"detserve: standard output cannot be written: {error.strerror}", file=sys.stderr)
        os._exit(1)  # Python would try to write it once more


if __name__ == "__main__":
    main()
