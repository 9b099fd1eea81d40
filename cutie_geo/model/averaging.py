"""One model from several that learnt from the same start: the mean of their weights."""

from collections.abc import Iterable

import torch

from cutie_geo.config import require
from cutie_geo.model.network import CutieGeo


@torch.no_grad()
def average(models: Iterable[CutieGeo]) -> CutieGeo:
    """The first of the models, with the mean of all of their weights.

    It is worth something only for models that went different ways from the same weights and did not go far, such as two
    seeds of one stage: between others lies nothing that was trained. Models are taken one after the other, so that a
    generator need not hold them all.

    Raises ValueError if there is none, or for one of another configuration or with other frozen files.
    Source: Wortsman et al., Model soups, ICML 2022 (the uniform soup).
    """
    remaining = iter(models)
    first = next(remaining, None)
    require(first is not None, "models: got none, wanted at least one")
    assert first is not None
    mean = {name: tensor for name, tensor in first.state_dict().items() if tensor.is_floating_point()}
    for count, model in enumerate(remaining, start=2):
        require(
            model.config == first.config and model.frozen_files == first.frozen_files,
            f"{model.loaded_from or f'model {count}'}: another configuration or other frozen encoders than the first "
            "of the models to average, wanted the same",
        )
        weights = model.state_dict()
        for name, tensor in mean.items():
            tensor.lerp_(weights[name].to(tensor), 1 / count)
    return first
