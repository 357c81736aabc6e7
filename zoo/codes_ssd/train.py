"""The whole recipe in one command: `python -m zoo.codes_ssd.train` makes scenes, trains, exports, scores."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from zoo.codes_ssd.export import export
from zoo.codes_ssd.network import make_network
from zoo.codes_yolo.evaluate import as_markdown
from zoo.scenes.symbols import LABELS
from zoo.scoring import as_line, score
from zoo.torchvision_reference import TorchvisionReference
from zoo.training import open_scenes, parse_options, train

_SCENES_ON_THE_WAY = 100


def main() -> None:
    """Run the recipe."""
    options = parse_options(__doc__, Path(__file__).parent)
    scenes, held_out = open_scenes(options)

    def save(network: nn.Module) -> str:
        export(network, options.out)  # type: ignore[arg-type]
        return as_line(score(TorchvisionReference(options.out), held_out, _SCENES_ON_THE_WAY))

    train(make_network(len(LABELS)), options, scenes, save)
    result = score(TorchvisionReference(options.out), held_out)
    (options.out / "score.json").write_text(json.dumps(result, indent=1) + "\n")
    print(as_markdown(result))


if __name__ == "__main__":
    main()
