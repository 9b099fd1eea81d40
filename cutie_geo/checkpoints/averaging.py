"""Average of the weights of several models with the same initial weights."""

from collections.abc import Iterable

import torch

from cutie_geo.config import require
from cutie_geo.model.network import CutieGeo


@torch.no_grad()
def average(models: Iterable[CutieGeo]) -> CutieGeo:
    """Average the weights of models into the first one and return it.

    The average is useful only for models that started from the same weights and stayed close, such as two seeds of one
    stage. Models are consumed one by one, so a generator does not hold them all.

    Raises:
        ValueError: If there are no models, or if configurations or frozen files differ.

    Source: Wortsman et al., Model soups, ICML 2022 (the uniform soup).
    """
    remaining = iter(models)
    first = next(remaining, None)
    require(first is not None, "models: got none, expected at least one")
    assert first is not None
    mean = {name: tensor for name, tensor in first.state_dict().items() if tensor.is_floating_point()}
    for count, model in enumerate(remaining, start=2):
        require(
            model.config == first.config and model.frozen_files == first.frozen_files,
            f"{model.loaded_from or f'model {count}'}: another configuration or other frozen encoders than the first "
            "of the models to average, expected the same",
        )
        weights = model.state_dict()
        for name, tensor in mean.items():
            tensor.lerp_(weights[name].to(tensor), 1 / count)
    return first
