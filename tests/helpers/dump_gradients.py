"""A program: the averaged gradients of a first step, and the clips of the first two, of `train`'s arguments."""

import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object

from cutie_geo.__main__ import Parser
from cutie_geo.commands import train
from cutie_geo.data.clips import ClipDataset, build_sources, clip_loader
from cutie_geo.training.draws import deep_updates
from cutie_geo.training.stage import prepare


def main(target: str, *argv: str) -> None:
    parser = Parser()
    train.add_arguments(parser)
    args = parser.parse_intermixed_args(list(argv))
    torch.set_num_threads(1)
    config = train.configuration(args)
    accelerator = train._accelerator(args, config, [])
    dataset = ClipDataset(build_sources(config.data, config.clips, None), config.clips, config.seed)
    batches = clip_loader(
        dataset, batch=config.batch, total_steps=config.steps, process=accelerator.process_index,
        processes=accelerator.num_processes,
    )  # fmt: skip
    state = train._state(config, train._model(args, config, accelerator, None))
    stage = prepare(config, accelerator, state, None)  # type: ignore[arg-type]
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
