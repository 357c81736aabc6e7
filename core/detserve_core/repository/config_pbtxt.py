"""``config.pbtxt``, read and written by Triton's own protobuf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detserve_core.errors import RepositoryError

CONFIG = "config.pbtxt"


def to_pbtxt(config: dict[str, Any]) -> str:
    """Text of a configuration in the JSON form of ModelConfig.

    An unknown field or a wrong type raises google.protobuf's ParseError: a bug of ours.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    message = json_format.ParseDict(config, model_config_pb2.ModelConfig())
    return str(text_format.MessageToString(message))


def read_config(path: Path) -> Any:
    """The ModelConfig of a ``config.pbtxt``.

    Raises:
        RepositoryError: there is no such file, or it is not a model configuration.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    if not path.is_file():  # a pipe would be waited for
        raise RepositoryError(f"{path} is not a file; build the model again")
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, ValueError, OSError) as error:
        raise RepositoryError(
            f"{path} is not a model configuration ({error}); build the model again"
        ) from None
