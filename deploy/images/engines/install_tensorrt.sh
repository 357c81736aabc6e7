#!/bin/sh
# TensorRT's Python API for exactly the TensorRT library of this image.
#
# NVIDIA's Triton image has the library without the API. The API's wheel on PyPI is a thin layer over it; the
# wheels with the library itself are left out, since a plan must come from the library that will load it.
set -eu
library=$(find "${TENSORRT_LIBRARIES:-/usr/lib}" -name 'libnvinfer.so.*.*.*' | sort | tail -n 1)
if [ -z "$library" ]; then
    echo "no libnvinfer.so in ${TENSORRT_LIBRARIES:-/usr/lib}: give a Triton image with TensorRT" >&2
    exit 1
fi
version=${library##*libnvinfer.so.}
cuda=${CUDA_VERSION:?this image does not say its CUDA version}
exec python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: \
    "tensorrt-cu${cuda%%.*}-bindings==${version}.*"
