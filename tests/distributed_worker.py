"""What tests/test_distributed.py runs in each of its processes; its one argument is a folder for files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import torch_conv_ext
import train_distributed as example


def checkpoint_round_trip(folder: str) -> bool:
    """Whether a sharded network that reads what another one wrote has its weights and its outputs."""
    network = example.make_network(torch_conv_ext)
    model = example.shard(network)
    example.train(model, steps=2)
    state_dict_saver.save(get_model_state_dict(model), checkpoint_id=folder)

    other = example.make_network(torch_conv_ext)
    reader = example.shard(other)
    before = example.weights(other)
    state = get_model_state_dict(reader)
    state_dict_loader.load(state, checkpoint_id=folder)
    set_model_state_dict(reader, state)
    images, _ = example.make_batch(0)
    with torch.no_grad():
        same_output = torch.equal(reader(images), model(images))
    written, read = example.weights(network), example.weights(other)
    changed = not any(map(torch.equal, before, read))
    return changed and same_output and all(map(torch.equal, written, read))


def main() -> int:
    dist.init_process_group("gloo")
    agree = example.run(example.STEPS)
    same = checkpoint_round_trip(sys.argv[1])
    print(f"rank {dist.get_rank()}: {agree=} {same=}", flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    status = main()
    # DTensor's cache of shardings keeps the process group, and so gloo's threads, past destroy_process_group.
    # Such a thread may still let go of the last collective's tensors. If it waits for the GIL when the
    # interpreter shuts down, CPython before 3.14 ends it by pthread_exit, which aborts the process. So the
    # interpreter is not shut down here.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
