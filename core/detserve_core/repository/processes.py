"""How many processes a pipeline takes to keep a machine's cores busy, and how many pictures each of them."""

from __future__ import annotations

# Python threads take turns with one lock for each process. A picture holds it for about half a millisecond of
# the 10 that an embedded network takes of a core, or of the 3 that it takes to decode for a called one.
_CORES_A_PROCESS_EMBEDDED, _CORES_A_PROCESS_CALLING = 8, 4


def processes_for(cores: int, *, calls: bool) -> int:
    """Processes of a pipeline whose network is in it, or that ``calls`` a detector of its own."""
    return -(-cores // (_CORES_A_PROCESS_CALLING if calls else _CORES_A_PROCESS_EMBEDDED))


def in_flight_for(batch: int, instances: int, processes: int) -> int:
    """Pictures that each process has at its detector: all together a batch for each instance and the next."""
    return -(-batch * (instances + 1) // processes)
