#!/bin/sh
# Says what this machine lacks for detserve, in one line to paste, before anything is downloaded.
# needs.sh PYTHON: POSIX sh and that Python's standard library only.
python=${1:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "$python is not installed; on Debian and Ubuntu, as root:" >&2
    echo "    apt-get update && apt-get install -y python3-venv python3-dev libgl1 libglib2.0-0" >&2
    exit 1
fi

exec "$python" - <<'END'
import glob
import sys
import sysconfig

version = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit("Python %s was found, detserve needs 3.10 to 3.12; say which: make demo PYTHON=python3.12" % version)


def loads(library):
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


missing = []
try:
    import ensurepip
    import venv
except ImportError:
    missing.append(("Python's venv", "python%s-venv" % version))
libpython = "libpython%s.so.1.0" % version
if not glob.glob("%s/libpython%s.so*" % (sysconfig.get_config_var("LIBDIR"), version)) and not loads(libpython):
    missing.append((libpython, "libpython%s" % version))
for library, package in (("libGL.so.1", "libgl1"), ("libgthread-2.0.so.0", "libglib2.0-0")):
    if not loads(library):
        missing.append((library, package))
if missing:
    sys.exit(
        "This machine lacks %s; on Debian and Ubuntu, as root:\n    apt-get update && apt-get install -y %s"
        % (", ".join(what for what, _ in missing), " ".join(package for _, package in missing))
    )
END
