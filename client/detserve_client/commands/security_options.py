"""What a gateway wants to see, as options of every command that calls one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ApiKeyFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The gateway's API key. Else: $DETSERVE_API_KEY.")
]
Ca: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Authority of the gateway's certificate. Else: $DETSERVE_CA."),
]
Certificate: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The client's certificate, its .key in or beside it. Else: $DETSERVE_CERTIFICATE.",
    ),
]
