"""Random numbers that depend on their purpose alone, not on what was drawn before."""

import hashlib

import torch


def generator(use: str, stream: str, seed: int, number: int) -> torch.Generator:
    """A generator on the CPU, the same for the same arguments in every process.

    Args:
        use: what the numbers are for.
        stream: name of an independent sequence within that use.
        seed: of the run.
        number: of the step or block within the stream.
    """
    # Part of what a seed means: never change it.
    key = f"{use}/{stream}/{seed}/{number}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
