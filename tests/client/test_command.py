"""The root command: what it lists, what it loads, what it says of a mistyped command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from detserve.command import COMMANDS, app

RUN = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})


def loaded_by_command(*arguments: object) -> set[str]:
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = {['detserve', *map(str, arguments)]!r}\n"
        "from detserve.command import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_lists_every_command_and_loads_none() -> None:
    shown = RUN.invoke(app, ["-h"]).output
    for name, command in COMMANDS.items():
        assert f" {name} " in shown
        assert command.help in shown, "a line of 80 columns"
        assert f" {command.group} " in shown
    loaded = loaded_by_command("--help")
    assert not {name for name in loaded if name.startswith("detserve_")} - {
        "detserve_core",
        "detserve_core.errors",
    }
    assert loaded.isdisjoint({"numpy", "pydantic", "cv2", "grpc"})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example_that_it_takes(name: str) -> None:
    shown = RUN.invoke(app, [name, "-h"])
    assert shown.exit_code == 0, shown.output
    assert "Example: " in shown.output
    program, *arguments = shlex.split(COMMANDS[name].example)
    assert (program, arguments[0]) == ("detserve", name)
    context = get_command(app).make_context("detserve", arguments)
    _, command, rest = context.command.resolve_command(context, arguments)
    while hasattr(command, "resolve_command"):
        group = command.make_context(command.name, rest, parent=context)
        _, command, rest = group.command.resolve_command(group, rest)
    command.make_context(command.name, rest, parent=context)  # raises where an option is unknown or missing


def test_version_and_mistyped_commands() -> None:
    assert RUN.invoke(app, ["--version"]).output.startswith("detserve 0.")
    mistyped = RUN.invoke(app, ["detct"])
    assert mistyped.exit_code == 2
    assert "No such command 'detct'. Did you mean 'detect'?" in mistyped.output


def test_the_shell_completes_commands_and_their_options() -> None:
    for typed, expected in (("detserve de", "detect"), ("detserve detect --sco", "--score")):
        environment = {
            **os.environ,
            "_DETSERVE_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        }
        command = str(Path(sys.executable).parent / "detserve")
        done = subprocess.run([command], capture_output=True, text=True, check=False, env=environment)
        assert expected in done.stdout.split()


def test_a_command_whose_libraries_are_not_installed_names_the_extra() -> None:
    code = (
        "import sys\nsys.modules['cryptography'] = None\nsys.argv = ['detserve', 'certs', '-h']\n"
        "from detserve.command import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "detserve: cryptography is not installed; install it with: pip install 'detserve[server]'\n"
    )


def test_a_grey_picture_needs_no_supervision(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    loaded = loaded_by_command("image", "gray", tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").is_file()
    assert loaded.isdisjoint({"supervision", "matplotlib", "grpc", "onnx", "onnxruntime"})
