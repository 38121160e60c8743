"""Learning rates as a pure function of the step: nothing to save, and nothing to lose, when a run is resumed."""

import math

from metaug_ray.config.training import ScheduleSettings


def learning_rate_factor(schedule: ScheduleSettings, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What each optimiser's learning rate is multiplied by in a step.

    Args:
        schedule: warm-up, and what follows.
        step: counted from 0.
        steps_per_epoch: steps in an epoch.
        epochs: of the whole run.
    """
    epoch = step / steps_per_epoch
    if epoch < schedule.warmup_epochs:
        # The first step already learns, and the step after the warm-up is the first at full height.
        return (step + 1) / (math.ceil(schedule.warmup_epochs * steps_per_epoch) + 1)
    match schedule.kind:
        case "step":
            return schedule.decay ** sum(epoch >= milestone for milestone in schedule.milestones)
        case "cosine":
            done = (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2
        case "constant":
            return 1.0
