"""Pictures in system shared memory, where a server on this host reads them instead of from the request."""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory

from detserve_client.engine.faults import plain
from detserve_core import contract
from detserve_perf.errors import MeasurementError


@contextmanager
def requests_in_shared_memory(address: str, model: str, pictures: Sequence[bytes]) -> Iterator[list[bytes]]:
    """One serialised ModelInferRequest for each picture, which names its place in a region of this process.

    Raises :class:`MeasurementError` when the server does not take shared memory.
    """
    from tritonclient.grpc import InferenceServerClient, service_pb2
    from tritonclient.utils import InferenceServerException

    tensors = [struct.pack("<I", len(picture)) + picture for picture in pictures]
    name = f"detserve_perf_{os.getpid()}_{secrets.token_hex(4)}"
    memory = SharedMemory(name, create=True, size=sum(map(len, tensors)))
    pixels = memory.buf
    assert pixels is not None  # noqa: S101 - it is None only after close()
    client = InferenceServerClient(address)
    try:
        client.register_system_shared_memory(name, memory.name, memory.size)
        requests, offset = [], 0
        for tensor in tensors:
            pixels[offset : offset + len(tensor)] = tensor
            request = service_pb2.ModelInferRequest(model_name=model)
            image = request.inputs.add(name=contract.IMAGE, datatype="BYTES", shape=[1, 1])
            image.parameters["shared_memory_region"].string_param = name
            image.parameters["shared_memory_byte_size"].int64_param = len(tensor)
            image.parameters["shared_memory_offset"].int64_param = offset
            requests.append(request.SerializeToString())
            offset += len(tensor)
        yield requests
        client.unregister_system_shared_memory(name)
    except InferenceServerException as error:
        raise MeasurementError(
            f"the server takes no pictures from shared memory: {plain(error.message() or '')}"
        ) from None
    finally:
        client.close()
        del pixels
        memory.close()
        memory.unlink()
