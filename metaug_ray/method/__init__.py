"""The method of the paper in plain PyTorch: from uint8 images to the gradients of encoders and generators.

In the order that data flows: `views`, `encoders`, `generators`, `memory_bank`, `similarities`, `contrast` and
`margins`, `objective`, `model`, `meta_gradient`, `algorithm`. Imports torch and torchvision alone.
"""
