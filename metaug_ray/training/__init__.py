"""One pre-training run on a cluster.

From the outside in: `trainer` (the driver: `capacity`, `resume`, `warm_start`, `fit`, `monitor`), `worker` (supplies a
worker from Ray Train: `ray_observer`), `loop` (knows no Ray: `batches`, `state`, `optimizers`, `schedule`, `health`,
`online_evaluation`, `checkpoint_clock`).
"""
