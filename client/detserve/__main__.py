"""``python -m detserve``: the command ``detserve``."""

from __future__ import annotations

from detserve.command import main

main()
