"""Learning: torch lives here and nowhere else. Images and votes in, `greenpea.posterior.Posterior` out."""

import os

# Read when torch is loaded. Threads of the network that wait for one another do so in a loop, for milliseconds, which
# takes the processor from the processes beside it: a prediction with two of these is a third faster so, and a network
# alone no slower (benchmarks/prediction.py).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
