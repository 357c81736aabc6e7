"""What a bare machine lacks; tests that need it skip and say what to install."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "c++") is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="there is no C++ compiler or Python.h: apt-get install g++ python3-dev",
)
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="there is no Chromium or playwright: apt-get install chromium; pip install playwright",
)
