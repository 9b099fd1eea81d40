"""A program: the averaged gradients of a first step, and the clips of the first two, of `train`'s arguments."""

import sys
from dataclasses import fields
from pathlib import Path

import torch
from accelerate.utils import gather_object

from cutie_geo.__main__ import Parser
from cutie_geo.commands.train import add_arguments
from cutie_geo.data.clips import ClipDataset, build_sources, clip_loader
from cutie_geo.runs import train
from cutie_geo.runs.trainables import trainable_for
from cutie_geo.training.sampling import deep_updates
from cutie_geo.training.stage import prepare


def main(target: str, *argv: str) -> None:
    parser = Parser()
    add_arguments(parser)
    args = parser.parse_intermixed_args(list(argv))
    torch.set_num_threads(1)
    names = [
        field.name for field in fields(train.TrainOptions) if field.name not in ("overrides", "command", "estimate")
    ]
    options = train.TrainOptions(**{name: getattr(args, name) for name in names}, overrides=tuple(args.overrides))
    config = train.configuration(options)
    accelerator = train._accelerator(options, config, [])
    dataset = ClipDataset(build_sources(config.data, config.clips, None), config.clips, config.seed)
    batches = clip_loader(
        dataset, batch=config.batch, total_steps=config.steps, process=accelerator.process_index,
        processes=accelerator.num_processes,
    )  # fmt: skip
    trainable = trainable_for(config)
    state = train._state(trainable, train._model(options, trainable, accelerator, None))
    stage = prepare(trainable, accelerator, state, None)  # type: ignore[arg-type]
    first, second = next(batches), next(batches)
    deep = deep_updates(config.seed, 0, config.clips.length, config.unroll.deep_update_probability)
    stage._learn(first[0], deep, 1, True)
    names = [name for step in (first, second) for name in gather_object(list(step[0].names))]
    if accelerator.is_main_process:
        gradients = {name: weight.grad for name, weight in state.trained().items()}
        torch.save({"gradients": gradients, "names": names}, Path(target))
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
