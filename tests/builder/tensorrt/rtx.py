"""The mark of tests that need NVIDIA's ahead-of-time compiler."""

from __future__ import annotations

import pytest

from detserve_builder.tensorrt.libraries import import_rtx
from detserve_core.errors import MissingExtra


def _reason() -> str:
    try:
        import_rtx()
    except MissingExtra as error:
        return str(error)
    return ""


needs_rtx = pytest.mark.skipif(bool(_reason()), reason=_reason())
