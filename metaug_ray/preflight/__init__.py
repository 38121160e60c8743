"""Whether a cluster can hold a long run, looked at before it begins: `jobs/check_cluster.py`.

One file for each kind of check. Each has what is gathered on a node, which runs there and knows nothing of the others,
and what is found in it: plain functions of what the nodes told, by their names. `probes` asks the nodes, `runner` goes
through the checks, `table` shows what they found.
"""
