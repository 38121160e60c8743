"""One pre-training run on a cluster.

From the outside in: `command` (settings from the command line), `trainer` (the driver: `placement`, `run_folder`,
`resume`, `monitor`), `worker` (supplies a worker from Ray Train), `loop` (knows no Ray: `batches`, `state`, `schedule`,
`health`, `online_knn`, `checkpoint`).
"""
