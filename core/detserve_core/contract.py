"""The contract between a served detector and its clients, the same for every family.

Ensemble ``NAME``::

    IMAGE           BYTES [1]     an encoded picture: JPEG, PNG, WebP or BMP
    num_detections  INT32 [1]     how many rows below are detections
    boxes           FP32  [M,4]   x1,y1,x2,y2 in pixels of the upright original picture, clipped to it
    scores          FP32  [M]     descending, 0 in the padding
    classes         INT32 [M]     -1 in the padding

M is the card's ``max_detections``. Request parameters ``score_threshold``, ``iou_threshold`` and
``max_detections`` override the card's for one request. The card itself is JSON in the ensemble's
configuration, under ``parameters`` / :data:`CARD_PARAMETER`; :data:`PRECISION_PARAMETER` beside it is what
the network was built in.
"""

from __future__ import annotations

IMAGE = "IMAGE"
NUM_DETECTIONS = "num_detections"
BOXES = "boxes"
SCORES = "scores"
CLASSES = "classes"
OUTPUTS = (NUM_DETECTIONS, BOXES, SCORES, CLASSES)

CARD_PARAMETER = "detserve_card"
PRECISION_PARAMETER = "detserve_precision"

SCORE_THRESHOLD = "score_threshold"
IOU_THRESHOLD = "iou_threshold"
MAX_DETECTIONS = "max_detections"

#: gRPC metadata in which a client names the model of its call, for the gateway, which reads no message.
MODEL_HEADER = "detserve-model"
#: Header in which the gateway tells the steps which models the key may use; Triton hands it on as
#: a request parameter.
SCOPE_HEADER = "detserve-models"
#: Header in which the gateway proves itself. Triton's gRPC wants it behind :data:`GRPC_PREFIX`.
GATEWAY_HEADER = "detserve-gateway"
GRPC_PREFIX = "triton-grpc-protocol-"
#: Environment variable that holds what is in that header; ``none`` opens the server to whoever reaches it.
GATEWAY_SECRET = "DETSERVE_GATEWAY_SECRET"  # noqa: S105
