"""Environments and exported files of every exporter: ``python -m tests.exporters.run OUT [EXPORTER ...]``.

An environment is made once a list of packages, OUT/env/NAME; the files of EXPORTER are in OUT/cases/EXPORTER.
The environments after the first see its torch (6 GB) by a .pth file and hold only what differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch"
PACKAGES = {
    TORCH: [
        "torch==2.14.1",
        "torchvision==0.29.1",
        "ultralytics==8.4.190",
        "onnx==1.23.2",
        "onnxruntime==1.32.0",
        "onnxscript==0.7.2",
        "onnxslim==0.1.98",
    ],
    "optimum": ["optimum-onnx==0.1.0", "transformers==4.57.6", "timm==1.0.31"],
    "rfdetr": ["rfdetr==1.11.2", "transformers==5.24.0"],
    "libreyolo": ["libreyolo==1.6.0"],
    # yolov5 names cloud clients that want an older torch; these are what it imports
    "yolov5": [
        "--no-deps",
        "yolov5==7.0.14",
        "fire==0.7.1",
        "gitpython==3.2.1",
        "huggingface-hub==0.24.7",
        "pandas==3.1.1",
        "pytz==2026.6",
        "scipy==1.17.1",
        "seaborn==0.13.2",
        "setuptools==80.10.2",
        "termcolor==3.3.0",
        "tqdm==4.70.1",
    ],
}
# exporter: environment, script
EXPORTERS = {
    "ultralytics": (TORCH, "export_ultralytics.py"),
    "torchvision": (TORCH, "export_torchvision.py"),
    "optimum": ("optimum", "export_transformers.py"),
    "transformers": ("rfdetr", "export_transformers.py"),
    "rfdetr": ("rfdetr", "export_rfdetr.py"),
    "libreyolo": ("libreyolo", "export_libreyolo.py"),
    "yolov5": ("yolov5", "export_yolov5.py"),
}
# No weights and nothing installed at run time; yolov5 loads its own pickles
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_OFFLINE": "1",
}


def environment(name: str, out: Path) -> Path:
    """The Python of an environment that holds the packages."""
    folder = out / "env" / name
    stamp, wanted = folder / "packages.txt", "\n".join(PACKAGES[name])
    python = folder / "bin/python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {', '.join(PACKAGES[name])} into {folder}", flush=True)
    venv.create(folder, symlinks=True, with_pip=True)
    if name != TORCH:
        environment(TORCH, out)
        site_packages = next(folder.glob("lib/python*/site-packages"))
        below = site_packages.relative_to(folder)
        (site_packages / "torch.pth").write_text(f"{(out / 'env' / TORCH).resolve() / below}\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
    stamp.write_text(wanted)
    return python


def export(exporter: str, out: Path) -> None:
    """Run the exporter's script; what it prints is kept in a log."""
    name, script = EXPORTERS[exporter]
    python, folder = environment(name, out), out / "cases" / exporter
    folder.mkdir(parents=True, exist_ok=True)
    print(f"exporting with {exporter}", flush=True)
    settings = {**os.environ, **SETTINGS, "YOLO_CONFIG_DIR": str((out / "settings").resolve())}
    with (out / f"{exporter}.log").open("w") as log:
        done = subprocess.run([python, HERE / script, folder.resolve()], env=settings, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{script} failed, see {log.name}")


if __name__ == "__main__":
    target, *chosen = sys.argv[1:]
    for exporter in chosen or EXPORTERS:
        export(exporter, Path(target))
