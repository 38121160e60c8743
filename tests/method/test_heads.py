import torch

from metaug_ray.method.heads import ProjectionHead


def test_a_head_is_a_linear_layer_and_a_normalisation() -> None:
    head = ProjectionHead(6, 4)
    representations = torch.randn(3, 6)
    projected = representations @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(representations), projected / projected.norm(dim=-1, keepdim=True))
