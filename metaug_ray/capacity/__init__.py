"""What a run will need before it is begun: time, memory, network, CPUs, disk and money, for any number of GPUs.

Arithmetic alone: nothing here trains, measures or asks a cluster. Whether a cluster that there is can hold a run is
said by :mod:`metaug_ray.training.capacity`.
"""
