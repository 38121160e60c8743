"""Hosts of a cluster that are lost, cut off, or full: four of them on this machine, each with an address of its own."""
