"""Pre-trains without Ray: `torchrun --nproc-per-node 2 examples/pretrain_with_torchrun.py BETON`.

The loop, the step and the state are those of the main job. Ray adds placement, restarts, checkpoints and MLflow; here
an observer of a few lines prints instead.
"""

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from metaug_ray.config import PretrainSettings
from metaug_ray.training.beton_batches import open_batches
from metaug_ray.training.loop import train
from metaug_ray.training.state import build_state

beton = Path(sys.argv[1])
settings = PretrainSettings.model_validate(
    {
        "data": {"beton": str(beton), "image_size": 32},
        "model": {"views": ("l", "ab"), "encoder": "conv", "width": 0.5, "small_images": True},
        "method": {"generator_hidden_size": 512, "meta": {"every": 10}},
        "bank": {"negatives": 512, "initial": "features"},
        "training": {"epochs": 1, "batch_size": 32, "precision": "float32", "schedule": {"kind": "cosine"}},
        "health": {"log_every": 2, "knn": {"every": 0}},
    }
)


class Printer:
    """Prints what the loop tells on the first rank, and keeps the encoders at the end."""

    def metrics(self, step, values):
        if dist.get_rank() == 0 and "loss/total" in values:
            print(f"step {step}: loss {values['loss/total']:.4f}, spread {values['feature_spread']:.2f}", flush=True)

    def histograms(self, step, values):
        pass

    def note(self, text):
        if dist.get_rank() == 0:
            print(text, flush=True)

    def save(self, state, metrics):
        if dist.get_rank() == 0:
            torch.save(state.metaug.model.eager_encoder.state_dict(), "encoders.pt")


dist.init_process_group()
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", dist.get_node_local_rank())
    torch.cuda.set_device(device)
batches = open_batches(settings, beton, cpus=1, device=device, rank=dist.get_rank(), world_size=dist.get_world_size())
state = build_state(settings, batches.samples, device)
train(settings, state, batches, Printer(), device=device)
# The ranks end together, and what holds their group is gone before it: its threads must not outlive Python.
dist.barrier()
del state, batches
gc.collect()
dist.destroy_process_group()
