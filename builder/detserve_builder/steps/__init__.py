"""The served steps.

``detserve_*.py`` are copied into the repository beside ``model.py``, which is one of ``models/``. They
import only numpy, cv2, onnxruntime and Triton's own module. ``detserve_upright.py`` is core's
``pictures/upright.py``, ``detserve_cores.py`` its ``machine/cores.py``. Calibration and the in-process
reference run the very same functions.
"""
