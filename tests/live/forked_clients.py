"""``URL``: a client that is used before a fork, and after it by its parent and four children."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.queues import SimpleQueue

import numpy as np

from detserve_client import Client
from tests.live.echo_repository import NAME

ROUNDS = 50


def wrong(client: Client, process: int) -> list[int]:
    """The widths that came back for others: every process sends widths of its own hundred."""
    widths = [1 + 100 * process + number for number in range(ROUNDS)]
    found = [int(client.detect(np.zeros((40, width, 3), np.uint8)).boxes[0, 0]) for width in widths]
    return [width for width, sent in zip(found, widths, strict=True) if width != sent]


def child(client: Client, process: int, answers: SimpleQueue[object]) -> None:
    """Report what was wrong, and how frames travelled."""
    answers.put((wrong(client, process), client.frame_transfer().kind))
    client.close()


def main() -> None:
    """Print one line; ends with 0 when no process got another's answer."""
    client = Client(sys.argv[1], NAME)
    assert wrong(client, 0) == []
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    children = [fork.Process(target=child, args=(client, number, answers)) for number in range(1, 5)]
    for each in children:
        each.start()
    mine = wrong(client, 0)
    for each in children:
        each.join(60)
    found = [answers.get() for each in children if each.exitcode == 0]
    print(found, mine)
    assert found == [([], "shared_memory")] * 4
    assert mine == []
    assert wrong(client, 0) == [], "the children closed nothing of their parent's"
    client.close()


if __name__ == "__main__":
    main()
