"""MetAug: contrastive learning with meta feature augmentation, as a training service on Ray."""
