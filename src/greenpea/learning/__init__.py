"""Learning: torch lives here and nowhere else. Images and votes in, `greenpea.posterior.Posterior` out."""
