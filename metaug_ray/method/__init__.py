"""The method of the paper in plain PyTorch: from uint8 images to the gradients of encoders and generators.

In the order that data flows: `views`, `encoders`, `heads`, `generators`, `memory_bank`, `similarities`, `contrast` and
`margins`, `objective`, `model`, `meta_gradient`, `algorithm`; and `frozen`, what is left when training is over. Imports
torch and torchvision alone, and the names that users choose (:mod:`metaug_ray.choices`).
"""
