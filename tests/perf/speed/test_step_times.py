"""Step times are differences of Triton's counters."""

import pytest

from detserve_perf.errors import MeasurementError
from detserve_perf.speed.step_times import ModelCounters, StepTimes, step_times

# One entry of model_stats as gRPC's JSON has it: 64-bit integers are text, zeros are left out.
GRPC = {
    "name": "codes_detector",
    "version": "1",
    "inference_count": "12",
    "execution_count": "4",
    "inference_stats": {
        "success": {"count": "12", "ns": "9000"},
        "fail": {},
        "queue": {"count": "12", "ns": "24000000"},
        "compute_input": {"count": "12", "ns": "1200000"},
        "compute_infer": {"count": "12", "ns": "120000000"},
        "compute_output": {"count": "12", "ns": "600000"},
    },
}
BEFORE = ModelCounters(
    requests=2, failed=1, executions=2, pictures=2,
    queue_ns=4_000_000, compute_input_ns=200_000, compute_infer_ns=20_000_000, compute_output_ns=100_000,
)  # fmt: skip
AFTER = ModelCounters(
    requests=12, failed=1, executions=6, pictures=22,
    queue_ns=24_000_000, compute_input_ns=1_200_000, compute_infer_ns=120_000_000, compute_output_ns=600_000,
)  # fmt: skip


def test_grpcs_json_is_read() -> None:
    assert ModelCounters.from_statistics(GRPC) == ModelCounters(
        requests=12, failed=0, executions=4, pictures=12,
        queue_ns=24_000_000, compute_input_ns=1_200_000,
        compute_infer_ns=120_000_000, compute_output_ns=600_000,
    )  # fmt: skip


def test_times_are_per_request_of_the_measurement_alone() -> None:
    assert step_times({"m": BEFORE}, {"m": AFTER}) == [
        StepTimes(
            model="m", requests=10, queue_ms=2.0, compute_input_ms=0.1, compute_infer_ms=10.0,
            compute_output_ms=0.05, pictures_per_execution=5.0,
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            BEFORE,
            AFTER.__class__(**{**vars(AFTER), "failed": 3}),
            "requests to m failed during the measurement",
        ),
        (AFTER, BEFORE, "m was reloaded"),
        (BEFORE, BEFORE, "m answered no request"),
    ],
)
def test_a_measurement_that_cannot_be_trusted_is_refused(before, after, words) -> None:
    with pytest.raises(MeasurementError, match=words):
        step_times({"m": before}, {"m": after})
