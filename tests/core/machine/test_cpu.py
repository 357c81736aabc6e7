"""What the text of /proc/cpuinfo says of a CPU."""

from __future__ import annotations

import platform

import pytest

from detserve_core.machine.cpu import cpu_kind, cpu_name

TEXT = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 {flags}
vmx flags\t: vnmi amx_int8 amx_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8
"""


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8", "AMX"),
        ("avx2 avx512f avx512_vnni avx512_bf16", "VNNI and bf16"),
        ("avx2 avx512f avx512_vnni", "VNNI"),
        ("avx2 avx_vnni", "VNNI"),
        ("avx2 avx512f avx512bw", "AVX-512"),
        ("avx avx2", "AVX2"),
        ("avx", "no AVX2"),
    ],
)
def test_the_kind_is_the_first_cores(flags: str, kind: str) -> None:
    text = TEXT.format(flags=flags)
    assert cpu_kind(text) == kind
    assert cpu_name(text) == "Intel(R) Xeon(R) Processor"


@pytest.mark.parametrize("text", ["", "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n"])
def test_a_cpu_that_is_not_x86_is_named_by_its_architecture(text: str) -> None:
    assert cpu_kind(text) == cpu_name(text) == platform.machine()
